//! The format from outside: repositories written, damaged, recovered.

#[cfg(test)]
mod busy;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod recover;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod support;
