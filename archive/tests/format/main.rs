//! The format from outside: repositories written, damaged, recovered.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod recover;
#[cfg(test)]
mod repository;
#[cfg(test)]
#[path = "../../../tests/src/skip.rs"]
#[allow(unreachable_pub, reason = "the end-to-end tests have it as well")]
mod skip;
#[cfg(test)]
mod support;
