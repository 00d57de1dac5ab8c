//! How servers and this client authenticate over TLS. Verification can't be disabled.
//!
//! OpenSSL, because librdkafka is built with it: one library to update, one set of trusted CAs. The vendored build knows no system
//! folder, so `native-tls` searches the usual ones (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them).

use std::fmt;
use std::path::Path;

use openssl::pkey::PKey;
use openssl::x509::X509;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, ClientBuilder, Identity, Url};

/// Largest file of certificates or of a key, bytes.
const MAX_FILE: u64 = 4 << 20;

/// What a connection over `https://` is verified with. The default: the roots of the system, the host of the address, no client certificate.
#[derive(Clone, Default)]
pub struct Tls {
    roots: Option<(String, Vec<Vec<u8>>)>,
    /// File, certificates and key in PEM.
    identity: Option<(String, Vec<u8>, Vec<u8>)>,
    /// The name that the certificate must have, if it is not the host of the address.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verifies(self.server_name.as_deref().unwrap_or("the host")))
    }
}

/// Where certificates and keys are, all in PEM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    pub ca: Option<&'a Path>,
    pub certificate: Option<&'a Path>,
    pub key: Option<&'a Path>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The key of the setting that is wrong (`ca`, `certificate`, `key`), and why.
    pub fn read(files: Files<'_>, key_password: Option<&str>, server_name: Option<String>) -> Result<Tls, (&'static str, String)> {
        let mut tls = Tls { server_name, ..Tls::default() };
        if let Some(path) = files.ca {
            let wrong = |why: String| ("ca", why);
            let found = certificates(path).map_err(wrong)?;
            let der = found.iter().map(|certificate| certificate.to_der());
            let roots = der.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(format!("{}: {e}", path.display())))?;
            tls.roots = Some((path.display().to_string(), roots));
        }
        match (files.certificate, files.key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let (chain, own) = identity(certificate, key, key_password)?;
                tls.identity = Some((certificate.display().to_string(), chain, own));
            }
            (None, Some(_)) => return Err(("key", "a key without `certificate`".to_string())),
            (Some(_), None) => return Err(("certificate", "a client certificate without its `key`".to_string())),
        }
        Ok(tls)
    }

    pub(super) fn is_default(&self) -> bool {
        self.roots.is_none() && self.identity.is_none() && self.server_name.is_none()
    }

    pub(super) fn has_ca(&self) -> bool {
        self.roots.is_some()
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.identity.is_some()
    }

    /// The CAs to verify against instead of those of the system (DER).
    pub fn roots_der(&self) -> Option<&[Vec<u8>]> {
        self.roots.as_ref().map(|(_, roots)| roots.as_slice())
    }

    /// The client certificate with its intermediate ones, and its key (PEM).
    pub fn identity_pem(&self) -> Option<(&[u8], &[u8])> {
        self.identity.as_ref().map(|(_, chain, key)| (chain.as_slice(), key.as_slice()))
    }

    /// What is verified, in words.
    pub fn verifies(&self, host: &str) -> String {
        let roots = self.roots.as_ref().map_or("the CAs of this system".to_string(), |(file, _)| format!("the CAs of {file}"));
        let own = self.identity.as_ref().map_or(String::new(), |(file, ..)| format!(", with the client certificate {file}"));
        format!("certificate of {host} verified against {roots}{own}")
    }

    /// Sets a client up. The address gets the name that is verified; names are resolved as before.
    pub(super) fn apply(&self, mut builder: ClientBuilder, url: &mut Url) -> Result<ClientBuilder, String> {
        if let Some((_, roots)) = &self.roots {
            let roots = roots.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
            builder = builder.tls_certs_only(roots);
        }
        if let Some((chain, key)) = self.identity_pem() {
            builder = builder.identity(Identity::from_pkcs8_pem(chain, key).map_err(|e| e.to_string())?);
        }
        if let Some(name) = &self.server_name {
            is_name(name)?;
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_string();
            builder = builder.dns_resolver(Through(host));
            url.set_host(Some(name)).map_err(|e| e.to_string())?;
        }
        Ok(builder)
    }
}

/// Whether a text can be the name of a server.
///
/// # Errors
/// What is wrong with it.
pub fn is_name(name: &str) -> Result<(), String> {
    let parsed = Url::parse(&format!("https://{name}/"));
    match parsed.is_ok_and(|url| url.domain() == Some(&name.to_ascii_lowercase())) {
        true => Ok(()),
        false => Err("the name of a server, without scheme and port, and no IP address: `clickhouse.example.com`".to_string()),
    }
}

/// Resolves every name as this host: the connection goes there, whatever name is verified.
struct Through(String);

impl Resolve for Through {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Addrs = Box::new(tokio::net::lookup_host((host, 0)).await?.collect::<Vec<_>>().into_iter());
            Ok(found)
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<X509>, String> {
    let text = file(path)?;
    match X509::stack_from_pem(&text) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{} contains no PEM certificate (`-----BEGIN CERTIFICATE-----`)", path.display())),
    }
}

/// Certificates and key in PEM, the key as PKCS #8 without a password.
fn identity(certificate: &Path, key: &Path, password: Option<&str>) -> Result<(Vec<u8>, Vec<u8>), (&'static str, String)> {
    let chain = certificates(certificate).map_err(|why| ("certificate", why))?;
    let wrong = |why: String| ("key", why);
    let text = file(key).map_err(wrong)?;
    // Without a password OpenSSL would ask for one at the terminal.
    let read = PKey::private_key_from_pem_passphrase(&text, password.unwrap_or_default().as_bytes());
    let read = read.map_err(|_| {
        let shown = key.display();
        let encrypted = text.windows(9).any(|part| part == b"ENCRYPTED");
        wrong(match (encrypted, password) {
            (true, None) => format!("the key of {shown} is encrypted: set `key_password`"),
            (true, Some(_)) => format!("`key_password` does not decrypt the key of {shown}"),
            (false, _) => format!("{shown} contains no PEM private key (`-----BEGIN PRIVATE KEY-----`)"),
        })
    })?;
    let first = chain.first().and_then(|first| first.public_key().ok());
    if !first.is_some_and(|public| public.public_eq(&read)) {
        return Err(wrong(format!("the key of {} does not belong to the first certificate of {}", key.display(), certificate.display())));
    }
    let pem: Vec<u8> = chain.iter().flat_map(|c| c.to_pem().unwrap_or_default()).collect();
    let bad = |e: &dyn fmt::Display| wrong(format!("{}: {e}", key.display()));
    let pkcs8 = read.private_key_to_pem_pkcs8().map_err(|e| bad(&e))?;
    Ok((pem, pkcs8))
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("{} can't be read: {e}", path.display());
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        return Err(format!("{} has {size} bytes: too large for certificates or a key", path.display()));
    }
    std::fs::read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        for good in ["clickhouse.example.com", "localhost", "a-b.C"] {
            is_name(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for wrong in ["", "https://x", "x:443", "127.0.0.1", "[::1]", "a b", "user@x", "x/y"] {
            is_name(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let rsa = |bits| PKey::from_rsa(openssl::rsa::Rsa::generate(bits).unwrap()).unwrap();
        let (key, other) = (rsa(2048), rsa(2048));
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&openssl::asn1::Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
        write("cert.pem", &builder.build().to_pem().unwrap());
        write("text.pem", b"no PEM");
        write("key.pem", &key.private_key_to_pem_pkcs8().unwrap());
        write("pkcs1.pem", &key.rsa().unwrap().private_key_to_pem().unwrap());
        write("other.pem", &other.private_key_to_pem_pkcs8().unwrap());
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        write("locked.pem", &key.private_key_to_pem_pkcs8_passphrase(cipher, b"sesame").unwrap());
        let read = |ca: Option<&str>, certificate: Option<&str>, key: Option<&str>, password: Option<&str>| {
            let (ca, certificate, key) = (ca.map(path), certificate.map(path), key.map(path));
            let files = Files { ca: ca.as_deref(), certificate: certificate.as_deref(), key: key.as_deref() };
            Tls::read(files, password, None).map(|tls| tls.verifies("h"))
        };
        for (found, setting, part) in [
            (read(Some("none.pem"), None, None, None), "ca", "none.pem can't be read: No such file"),
            (read(Some("text.pem"), None, None, None), "ca", "no PEM certificate"),
            (read(None, Some("key.pem"), Some("key.pem"), None), "certificate", "no PEM certificate"),
            (read(None, Some("cert.pem"), None, None), "certificate", "without its `key`"),
            (read(None, None, Some("key.pem"), None), "key", "without `certificate`"),
            (read(None, Some("cert.pem"), Some("text.pem"), None), "key", "no PEM private key"),
            (read(None, Some("cert.pem"), Some("other.pem"), None), "key", "does not belong"),
            (read(None, Some("cert.pem"), Some("locked.pem"), None), "key", "is encrypted: set `key_password`"),
            (read(None, Some("cert.pem"), Some("locked.pem"), Some("wrong")), "key", "`key_password` does not decrypt"),
        ] {
            let (wrong, why) = found.unwrap_err();
            assert!(wrong == setting && why.contains(part), "{wrong}: {why}");
        }
        for (key, password) in [("key.pem", None), ("pkcs1.pem", None), ("locked.pem", Some("sesame"))] {
            let verifies = read(Some("cert.pem"), Some("cert.pem"), Some(key), password).unwrap();
            assert!(verifies.contains("cert.pem, with the client certificate"), "{verifies}");
        }
    }
}
