//! The one place to which this host sends packs by itself.
//!
//! A controller in the wrong hands could name any address for a pack, and this
//! host would PUT there as root: into its own networks, to services that trust
//! it. So the place is written down when the host joins, shown to whoever joins
//! it, and kept beside the host's key. A request the controller signed is only
//! sent if it is for exactly the object of that pack in that place, and says no
//! more than such a request has to.

use std::collections::HashMap;
use std::fmt;

use holdfast_archive::ids::PackId;
use holdfast_archive::keys::ObjectKey;
use http::Uri;
use http::uri::Authority;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

/// Headers that signed requests have, in lower case, besides host and length.
const HEADERS: [&str; 7] = [
    "content-type",
    "if-none-match",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
];

/// A place that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no place for packs: {cause}", url.escape_debug())]
pub struct InvalidStorePin {
    url: String,
    cause: &'static str,
}

/// Why a URL leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoAddress {
    Host,
    Port,
}

/// A request that is not sent, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPinned {
    #[error("no place for packs was kept when this host joined")]
    None,
    #[error(
        "not the pinned store: the controller names {0}, which is not of the place kept when this host joined"
    )]
    Elsewhere(String),
    #[error("the controller's request for a pack has {0}, which no such request needs")]
    More(String),
}

/// A request to store a pack, as the controller signed it.
#[derive(Debug, Clone)]
pub struct SignedPut {
    pub url: String,
    pub headers: HashMap<String, String>,
}

/// A store's address and whom to trust there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePin {
    /// `scheme://host[:port]/bucket[/prefix]`.
    url: String,
    /// Certificates trusted there; empty: those that this system trusts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ca_pem: String,
}

/// Where a connection to the store goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub secure: bool,
    /// In lower case, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

/// What may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub address: Address,
    /// As the request names it in its `Host` header.
    pub authority: String,
    pub path_and_query: String,
    /// Without host and length.
    pub headers: Vec<(String, String)>,
}

impl NoAddress {
    fn as_str(self) -> &'static str {
        match self {
            Self::Host => "it is not http:// or https:// and a host",
            Self::Port => "its port is no number from 1 to 65535",
        }
    }
}

impl fmt::Debug for StorePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StorePin").field(&self.url).finish()
    }
}

impl fmt::Display for StorePin {
    /// For people: where, and how it is proved to be that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As it is connected to: a scheme may be in capitals.
        let secure = self.url.parse().is_ok_and(|uri| address(&uri).is_ok_and(|address| address.secure));
        let proof = match (secure, self.ca_pem.is_empty()) {
            (false, _) => "NOT encrypted on the way",
            (true, true) => "proved by a CA this system trusts",
            (true, false) => "proved by a CA of its own",
        };
        write!(f, "{} ({proof})", self.url)
    }
}

impl StorePin {
    /// A place as the controller names it to a host that joins.
    ///
    /// # Errors
    /// When it is no whole URL of a bucket, or its certificates cannot be read.
    pub fn new(url: &str, ca_pem: &str) -> Result<Self, InvalidStorePin> {
        let invalid = |cause| InvalidStorePin { url: url.to_owned(), cause };
        let uri: Uri = url.parse().map_err(|_| invalid("it is no URL"))?;
        address(&uri).map_err(|error| invalid(error.as_str()))?;
        // Kept in plain view beside the key: nothing of a signature may stand in it.
        if uri.query().is_some() || url.contains('#') {
            return Err(invalid("it has a query"));
        }
        // Objects are compared as text later. What a server might read as another path
        // than it looks like is no place to be sure of.
        let mut parts = uri.path().split('/').skip(1);
        if uri.path() == "/" || parts.any(|part| matches!(part, "" | "." | "..") || part.contains('%')) {
            return Err(invalid("its path is not that of a bucket"));
        }
        let mut certificates = CertificateDer::pem_slice_iter(ca_pem.as_bytes());
        let readable = ca_pem.is_empty() || matches!(certificates.next(), Some(Ok(_)));
        if !readable {
            return Err(invalid("the CA named with it cannot be read"));
        }
        Ok(Self { url: url.to_owned(), ca_pem: ca_pem.to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Certificates trusted there; empty: those that this system trusts.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What of a signed request for this pack, of `length` bytes, may be sent.
    ///
    /// # Errors
    /// When it leads anywhere but to the pack's object in this place, or has
    /// what a signed PUT does not need.
    pub fn admit(&self, put: &SignedPut, pack: &PackId, length: u64) -> Result<Admitted, NotPinned> {
        let SignedPut { url, headers } = put;
        let elsewhere = || NotPinned::Elsewhere(shown(url));
        let uri: Uri = url.parse().map_err(|_| elsewhere())?;
        let pinned: Uri = self.url.parse().map_err(|_| elsewhere())?;
        let address = address(&uri).map_err(|_| elsewhere())?;
        // The pack's own object and no other in that place: a signed PUT on any other
        // name would let a controller write over what this host may only add to.
        let object = format!("{}/{}", pinned.path(), ObjectKey::Pack(*pack));
        if Ok(&address) != self::address(&pinned).as_ref() || uri.path() != object {
            return Err(elsewhere());
        }
        // A store decides by parameters what a PUT does: `acl` or `tagging` are other
        // operations on the same path.
        let mut parameters = uri.query().unwrap_or_default().split('&').filter(|one| !one.is_empty());
        if let Some(parameter) = parameters.find(|parameter| !is_signature(parameter)) {
            let name = parameter.split('=').next().unwrap_or_default();
            return Err(NotPinned::More(format!("a parameter `{}`", name.escape_debug())));
        }
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let headers = admit_headers(headers, &authority, length)?;
        let path_and_query = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        Ok(Admitted { address, authority, path_and_query, headers })
    }
}

/// The signature and what it is about; the SDK names the operation as well.
fn is_signature(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
    name.starts_with("x-amz-") || name == "x-id"
}

/// The headers to send besides host and length, which must be what they are.
fn admit_headers(
    given: &HashMap<String, String>,
    authority: &str,
    length: u64,
) -> Result<Vec<(String, String)>, NotPinned> {
    let mut headers = Vec::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let fits = match lower.as_str() {
            // Signed, so they have to be sent; from what this host knows itself.
            "host" => value.eq_ignore_ascii_case(authority),
            "content-length" => *value == length.to_string(),
            known if HEADERS.contains(&known) => {
                headers.push((lower.clone(), value.clone()));
                true
            }
            _ => false,
        };
        if !fits {
            return Err(NotPinned::More(format!("a header `{}` of that value", name.escape_debug())));
        }
    }
    Ok(headers)
}

fn address(uri: &Uri) -> Result<Address, NoAddress> {
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(NoAddress::Host),
    };
    let authority = uri.authority().ok_or(NoAddress::Host)?;
    // A name before the host is one for people to misread.
    if authority.as_str().contains('@') {
        return Err(NoAddress::Host);
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if host.is_empty() {
        return Err(NoAddress::Host);
    }
    Ok(Address { secure, host, port: port(authority, secure)? })
}

/// The port an authority names, or its scheme's. [`Authority::port_u16`] has
/// none for one that is out of range, too, as if none was named.
fn port(authority: &Authority, secure: bool) -> Result<u16, NoAddress> {
    let named = authority.as_str().strip_prefix(authority.host()).ok_or(NoAddress::Host)?;
    if matches!(named, "" | ":") {
        return Ok(if secure { 443 } else { 80 });
    }
    let digits = named.strip_prefix(':').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok());
    port.filter(|port| *port > 0).ok_or(NoAddress::Port)
}

/// A URL for a message: without its signature, and not endless.
fn shown(url: &str) -> String {
    let plain: String = url.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
    format!("`{}`", plain.escape_debug())
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::AllocationId;

    use super::*;

    const LENGTH: u64 = 77;

    fn pack() -> PackId {
        PackId { sha256: [0xab; 32], allocation: AllocationId::generate() }
    }

    fn pin(url: &str) -> StorePin {
        StorePin::new(url, "").unwrap()
    }

    fn put(url: String, headers: &[(&str, &str)]) -> SignedPut {
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        SignedPut { url, headers }
    }

    #[test]
    fn v10_the_packs_object_in_the_pinned_place_is_admitted() {
        let pack = pack();
        for (place, asked) in [
            ("https://store.example/b/p", "https://store.example/b/p"),
            ("https://store.example/b", "https://STORE.example:443/b"),
            ("HTTPS://store.example/b", "https://store.example/b"),
            ("https://store.example/b", "HTTPS://store.example/b"),
            ("https://store.example:443/b", "https://store.example/b"),
            ("http://127.0.0.1:3900/b", "http://127.0.0.1:3900/b"),
            ("https://[fd00::1]:9000/b", "https://[fd00::1]:9000/b"),
        ] {
            let url = format!("{asked}/packs/ab/{pack}?X-Amz-Signature=s&x-id=PutObject&X-Amz-Expires=9");
            let headers = [("Content-Length", "77"), ("x-amz-checksum-sha256", "c")];
            let admitted = pin(place).admit(&put(url, &headers), &pack, LENGTH).unwrap();
            assert_eq!(admitted.headers, [("x-amz-checksum-sha256".to_owned(), "c".to_owned())]);
            assert!(admitted.path_and_query.ends_with("X-Amz-Expires=9"), "{admitted:?}");
        }
    }

    #[test]
    fn v10_every_other_address_is_refused() {
        let (pin, pack) = (pin("https://store.example/b/p"), pack());
        let good = format!("/b/p/packs/ab/{pack}");
        for url in [
            format!("https://other.example{good}"),
            format!("http://store.example{good}"),
            format!("https://store.example:444{good}"),
            format!("https://store.example:99999{good}"),
            format!("https://store.example:65979{good}"),
            format!("https://store.example.evil.example{good}"),
            format!("https://store.example@evil.example{good}"),
            format!("https://evil@store.example{good}"),
            format!("https://169.254.169.254{good}"),
            format!("https://store.example/b/q/packs/ab/{pack}"),
            format!("https://store.example/b/p/packs/ab/{}", self::pack()),
            format!("https://store.example/b/p/../../c{good}"),
            format!("https://store.example/b/p/%2e%2e/packs/ab/{pack}"),
            format!("https://store.example{good}/more"),
            "https://store.example/b/p/repo.json".to_owned(),
            format!("ftp://store.example{good}"),
            good.clone(),
            "not a url".to_owned(),
            String::new(),
        ] {
            let refused = pin.admit(&put(url.clone(), &[]), &pack, LENGTH).unwrap_err();
            assert!(matches!(refused, NotPinned::Elsewhere(_)), "{url}: {refused:?}");
            assert!(refused.to_string().starts_with("not the pinned store"), "{refused}");
        }
        let secret = put(format!("https://evil.example{good}?X-Amz-Signature=hush"), &[]);
        assert!(!pin.admit(&secret, &pack, LENGTH).unwrap_err().to_string().contains("hush"));
    }

    #[test]
    fn v10_what_a_signed_request_does_not_need_is_refused() {
        let (pin, pack) = (pin("https://store.example/b"), pack());
        let good = format!("https://store.example/b/packs/ab/{pack}");
        for headers in [
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-amz-acl", "public-read"),
            ("x-amz-copy-source", "/b/repo.json"),
            ("transfer-encoding", "chunked"),
            ("host", "other.example"),
            ("content-length", "78"),
        ] {
            let refused = pin.admit(&put(good.clone(), &[headers]), &pack, LENGTH).unwrap_err();
            assert!(matches!(refused, NotPinned::More(_)), "{headers:?}: {refused:?}");
        }
        for query in ["acl", "X-Amz-Date=1&tagging", "uploads=", "&acl", "partNumber=1&uploadId=2"] {
            let refused = pin.admit(&put(format!("{good}?{query}"), &[]), &pack, LENGTH).unwrap_err();
            assert!(matches!(refused, NotPinned::More(_)), "{query}: {refused:?}");
        }
    }

    #[test]
    fn v10_what_is_no_place_is_not_kept() {
        for url in [
            "",
            "store.example/b",
            "ftp://store.example/b",
            "https://store.example",
            "https://store.example/",
            "https://store.example/b//p",
            "https://store.example/b/../c",
            "https://store.example/b/%2e%2e/c",
            "https://store.example/b?x",
            "https://u:p@store.example/b",
            "https://store.example:0/b",
            "https://store.example:99999/b",
            "https://store.example:65979/b",
            "https://[fd00::1]:99999/b",
        ] {
            assert!(StorePin::new(url, "").is_err(), "{url}");
        }
        assert!(StorePin::new("https://store.example/b", "no certificate").is_err());
    }

    #[test]
    fn v10_join_tells_where_packs_go_and_how_that_is_proved() {
        assert!(pin("https://store.example/b").to_string().contains("a CA this system trusts"));
        assert!(pin("HTTPS://store.example/b").to_string().contains("a CA this system trusts"));
        assert!(pin("http://10.0.0.7:3900/b").to_string().contains("NOT encrypted"));
        assert!(pin("HTTP://10.0.0.7:3900/b").to_string().contains("NOT encrypted"));
    }
}
