//! A TCP port in front of a server that can be shut and opened again. Clients
//! then see what they see when the server is killed, and the server keeps what
//! it has in memory.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::ports::Port;
use crate::wait;

/// Open from the start; shut for good when dropped.
pub struct Gate {
    port: Port,
    target: SocketAddr,
    open: Option<Open>,
}

/// What runs while the gate is open.
struct Open {
    shut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl Gate {
    /// On a port of its own, in front of `target`.
    pub fn open(target: SocketAddr) -> Self {
        let mut gate = Self { port: Port::reserve(), target, open: None };
        gate.reopen();
        gate
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Refuses new connections and cuts those there are.
    pub fn shut(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.shut.store(true, Ordering::SeqCst);
        // The listener lives in the thread, which looks at the flag after each connection.
        let _ = TcpStream::connect(self.address());
        open.accepting.join().expect("the accepting thread ends");
        for connection in open.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through, again or for the first time, on the port it has.
    pub fn reopen(&mut self) {
        self.shut();
        let address = self.address();
        let listener = wait::until("the port of the gate", 20, || TcpListener::bind(address));
        self.open = Some(Open::start(listener, self.target));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Open {
    fn start(listener: TcpListener, target: SocketAddr) -> Self {
        let shut = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (flag, kept) = (Arc::clone(&shut), Arc::clone(&connections));
        let accepting = thread::spawn(move || {
            for client in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                // A server that does not answer yet is the client's to find out.
                let Ok(pair) = client.and_then(|client| Ok((client, TcpStream::connect(target)?))) else {
                    continue;
                };
                let _ = join(pair, &kept);
            }
        });
        Self { shut, connections, accepting }
    }
}

/// Copies both ways, and keeps both ends to be cut.
fn join((client, server): (TcpStream, TcpStream), kept: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    let ways = [(client.try_clone()?, server.try_clone()?), (server.try_clone()?, client.try_clone()?)];
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend([client, server]);
    for (mut from, mut to) in ways {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
