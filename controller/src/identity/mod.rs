//! Who a host is: the controller's CA, the certificates it gives out, the
//! tokens that lead to one.
//!
//! Called by `api` for enrolment, by `fleet` for what a certificate says, and by
//! `init` and `app`. It reads and writes the CA's files alone: which certificate
//! counts is a row of the catalogue.

pub mod ca;
pub mod certificate;
pub mod csr;
pub mod name;
pub mod token;
