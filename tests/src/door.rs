//! Stands where a server was while that is down, and sees who comes.

use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::wait;

pub struct Door {
    listener: TcpListener,
}

impl Door {
    /// Listens at an address whose server is down. Whoever comes gets no
    /// answer: the connection ends.
    pub fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("its port is free");
        listener.set_nonblocking(true).expect("set");
        Self { listener }
    }

    /// Waits until somebody asks for a path with that in it.
    pub fn wait_for(self, path_part: &str, seconds: u64) {
        let mut seen = Vec::new();
        wait::until(&format!("a request for {path_part}"), seconds, || {
            while let Ok((connection, _)) = self.listener.accept() {
                let line = first_line(connection).unwrap_or_else(|error| error.to_string());
                if line.contains(path_part) {
                    return Ok(());
                }
                seen.push(line);
            }
            Err(seen.clone())
        });
    }
}

fn first_line(connection: TcpStream) -> io::Result<String> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    Ok(line)
}
