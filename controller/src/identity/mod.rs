//! Who a host is: the controller's CA, the certificates it gives out, the
//! tokens that lead to one.

pub mod ca;
pub mod certificate;
pub mod csr;
pub mod name;
pub mod token;
