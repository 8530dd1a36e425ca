//! The number of a run and the secret that its processes share.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::hex;

/// Number of one run of a job, drawn at random; not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId([u8; Self::LEN]);

impl RunId {
    /// Bytes of a run id.
    pub const LEN: usize = 16;

    /// The run with these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// A new run.
    ///
    /// # Errors
    /// [`SecretError::Random`] when the kernel gives no random bytes.
    pub fn random() -> Result<Self, SecretError> {
        random_bytes().map(Self)
    }

    /// The run that all processes with the same secret and the same `label` agree on without
    /// talking to each other.
    pub fn derived(secret: &Secret, label: &str) -> Self {
        let digest = secret.authenticate(&[b"paceline run id", label.as_bytes()]);
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&digest[..Self::LEN]);
        Self(bytes)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RunId({self})")
    }
}

/// The text is not a run id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a run id of 32 hexadecimal digits")]
pub struct ParseRunIdError;

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode_array(text).map(Self).ok_or(ParseRunIdError)
    }
}

/// The key that all processes of a run share, and nobody else.
///
/// Its bytes are wiped from memory when it is dropped and never appear in `Debug` output.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; Self::LEN]>);

impl Secret {
    /// Bytes of a secret.
    pub const LEN: usize = 32;

    /// The secret with these bytes.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new secret.
    ///
    /// # Errors
    /// [`SecretError::Random`] when the kernel gives no random bytes.
    pub fn random() -> Result<Self, SecretError> {
        random_bytes().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Its 64 hexadecimal digits, for a pipe or a file of mode 0600. Wiped when dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&*self.0))
    }

    /// The secret with these 64 hexadecimal digits; white space around them is ignored.
    ///
    /// # Errors
    /// [`SecretError::Malformed`].
    pub fn from_hex(text: &str) -> Result<Self, SecretError> {
        let bytes = hex::decode_array(text.trim()).ok_or(SecretError::Malformed)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Reads the secret from a file that only its owner may read.
    ///
    /// # Errors
    /// [`SecretError::Exposed`] when group or others have any access,
    /// [`SecretError::ForeignOwner`] when the file belongs to another user than this process's or
    /// root, [`SecretError::MalformedFile`] and [`SecretError::Read`].
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let read_error = |source| SecretError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_error)?;
        // The opened file is examined, not the path: a path may change between two looks.
        let metadata = file.metadata().map_err(read_error)?;
        require_private(path, &metadata)?;
        // One more byte than the digits and a line end need, so that a longer file is noticed.
        let mut text = Zeroizing::new(String::with_capacity(128));
        let malformed = || SecretError::MalformedFile { path: path.to_owned() };
        match file.take(2 * Self::LEN as u64 + 3).read_to_string(&mut text) {
            Ok(_) => Self::from_hex(&text).map_err(|_| malformed()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(malformed()),
            Err(error) => Err(read_error(error)),
        }
    }

    /// Writes the secret to a new file of mode 0600.
    ///
    /// # Errors
    /// [`SecretError::Write`], also when something of that name exists already.
    pub fn to_file(&self, path: &Path) -> Result<(), SecretError> {
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            // The process's umask can only have taken bits away.
            file.write_all(self.to_hex().as_bytes())?;
            file.write_all(b"\n")
        };
        write().map_err(|source| SecretError::Write { path: path.to_owned(), source })
    }

    /// HMAC-SHA256 over the length-prefixed `parts`, so that no two lists of parts collide.
    pub(crate) fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is [`Secret::authenticate`] of `parts`, in constant time.
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
        self.mac(parts).verify(tag.into()).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Refuses a file that others could have read or written.
pub(crate) fn require_private(path: &Path, metadata: &fs::Metadata) -> Result<(), SecretError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(SecretError::ForeignOwner { path: path.to_owned(), owner, user });
    }
    Ok(())
}

/// Random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|source| SecretError::Random { source })?;
    Ok(bytes)
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The kernel gave no random bytes.
    #[error("failed to draw random bytes")]
    Random {
        /// Why.
        #[source]
        source: getrandom::Error,
    },
    /// The text is not a secret. It is not shown: it may be one with a typing error.
    #[error("the secret is not 64 hexadecimal digits")]
    Malformed,
    /// The contents of the file are not a secret.
    #[error("the secret file {} does not hold 64 hexadecimal digits", path.display())]
    MalformedFile {
        /// The file.
        path: PathBuf,
    },
    /// Group or others have access.
    #[error("the secret file {} has mode {mode:04o}, open to other users", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to someone else.
    #[error("the secret file {} belongs to user {owner}, not to {user}", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Reading failed.
    #[error("failed to read the secret file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("failed to write the secret file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SecretError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!(
                "run `chmod 600 {0}`, and make a new secret if others may have read it",
                path.display()
            )),
            Self::MalformedFile { path } => Some(format!(
                "make one with `(umask 077; od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' > {})`",
                path.display()
            )),
            _ => None,
        }
    }
}
