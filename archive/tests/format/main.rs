//! The format from outside: repositories written, damaged, recovered.

#[cfg(test)]
mod busy;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod golden;
#[cfg(test)]
#[path = "../../../tests/src/record.rs"]
#[allow(unreachable_pub, reason = "the end-to-end tests have it as well")]
mod record;
#[cfg(test)]
mod recover;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod support;
