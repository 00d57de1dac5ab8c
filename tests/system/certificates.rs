//! Certificates made on the spot, and a server that ends TLS in front of a service, with whatever certificate it is given.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::SystemTime;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Name};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A certificate authority.
pub struct Authority {
    name: &'static str,
    pub certificate: X509,
    key: PKey<Private>,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Issued {
    certificate: X509,
    key: PKey<Private>,
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(text: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", text).unwrap();
    name.build()
}

/// A certificate that holds from `from` to `to` seconds from now.
fn made(subject: &str, names: &[&str], (from, to): (i64, i64), key: &PKey<Private>, issuer: (&str, &PKey<Private>), is_ca: bool) -> X509 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name(subject)).unwrap();
    builder.set_issuer_name(&name(issuer.0)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + to).unwrap()).unwrap();
    if is_ca {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if !names.is_empty() {
        let mut all = SubjectAlternativeName::new();
        for name in names {
            all.dns(name);
        }
        let all = all.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(all).unwrap();
    }
    builder.sign(issuer.1, MessageDigest::sha256()).unwrap();
    builder.build()
}

impl Authority {
    pub fn new(name: &'static str) -> Authority {
        let key = key();
        let certificate = made(name, &[], (-DAY, DAY), &key, (name, &key), true);
        Authority { name, certificate, key }
    }

    /// A certificate for these names, valid from and to seconds from now.
    pub fn issue(&self, names: &[&str], valid: (i64, i64)) -> Issued {
        let key = key();
        let certificate = made(names.first().copied().unwrap_or("client"), names, valid, &key, (self.name, &self.key), false);
        Issued { certificate, key }
    }

    /// Its certificate as a file.
    pub fn file(&self, dir: &Path) -> PathBuf {
        write(dir, &format!("{}.pem", self.name), &self.certificate.to_pem().unwrap())
    }
}

impl Issued {
    /// Certificate and key as files; the key is encrypted if there is a password.
    pub fn files(&self, dir: &Path, name: &str, password: Option<&str>) -> (PathBuf, PathBuf) {
        let key = match password {
            Some(password) => {
                let cipher = openssl::symm::Cipher::aes_256_cbc();
                self.key.private_key_to_pem_pkcs8_passphrase(cipher, password.as_bytes()).unwrap()
            }
            None => self.key.private_key_to_pem_pkcs8().unwrap(),
        };
        let certificate = write(dir, &format!("{name}.crt"), &self.certificate.to_pem().unwrap());
        (certificate, write(dir, &format!("{name}.key"), &key))
    }

    /// A server's end of TLS; with `clients`, it wants certificates of that authority.
    pub fn acceptor(&self, clients: Option<&Authority>) -> SslAcceptor {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        builder.set_private_key(&self.key).unwrap();
        builder.set_certificate(&self.certificate).unwrap();
        if let Some(authority) = clients {
            let mut store = X509StoreBuilder::new().unwrap();
            store.add_cert(authority.certificate.clone()).unwrap();
            builder.set_verify_cert_store(store.build()).unwrap();
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        builder.build()
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Ends TLS in front of a service.
pub struct Terminator {
    address: SocketAddr,
    acceptor: watch::Sender<SslAcceptor>,
    _runtime: tokio::runtime::Runtime,
}

impl Terminator {
    /// In front of the service at `upstream`, a URL or `host:port`.
    pub fn start(upstream: &str, acceptor: SslAcceptor) -> Terminator {
        let upstream = upstream.trim_start_matches("http://").split('/').next().unwrap().to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, current) = watch::channel(acceptor);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, mut current) = (upstream.clone(), current.clone());
                let context = Ssl::new(current.borrow_and_update().context()).unwrap();
                let through = async move {
                    let mut client = tokio_openssl::SslStream::new(context, client)?;
                    Pin::new(&mut client).accept().await.map_err(std::io::Error::other)?;
                    let mut server = TcpStream::connect(upstream).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                };
                tokio::spawn(async move {
                    tokio::select! {
                        _ = through => {}
                        _ = current.changed() => {}
                    }
                });
            }
        });
        Terminator { address, acceptor, _runtime: runtime }
    }

    /// Its address with the path of the service's.
    pub fn url(&self, scheme: &str, upstream: &str) -> String {
        let path = upstream.trim_start_matches("http://").split_once('/').map_or("", |(_, path)| path);
        format!("{scheme}://{}/{path}", self.address)
    }

    /// Another certificate from now on; connections that were made with the one before are closed.
    pub fn present(&self, acceptor: SslAcceptor) {
        self.acceptor.send_replace(acceptor);
    }
}
