//! Operating system strings in JSON: text where they are text, bytes where they are not.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

/// A path, an argument or a variable: any bytes, usually UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum OsText {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&OsStr> for OsText {
    fn from(value: &OsStr) -> Self {
        match value.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(value.as_bytes().to_vec()),
        }
    }
}

impl From<OsText> for OsString {
    fn from(value: OsText) -> Self {
        match value {
            OsText::Text(text) => Self::from(text),
            OsText::Bytes(bytes) => Self::from_vec(bytes),
        }
    }
}

/// `#[serde(with = …)]` for one string.
pub(crate) mod one {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{OsStr, OsString, OsText};

    pub(crate) fn serialize<S: Serializer>(
        value: impl AsRef<OsStr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        OsText::from(value.as_ref()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<OsString>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Ok(T::from(OsString::from(OsText::deserialize(deserializer)?)))
    }
}

/// `#[serde(with = …)]` for a list of strings.
pub(crate) mod list {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{OsString, OsText};

    pub(crate) fn serialize<S: Serializer>(
        values: &[OsString],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| OsText::from(value.as_os_str())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<OsString>, D::Error> {
        let texts: Vec<OsText> = Vec::deserialize(deserializer)?;
        Ok(texts.into_iter().map(OsString::from).collect())
    }
}

/// `#[serde(with = …)]` for variables and their values.
pub(crate) mod pairs {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{OsString, OsText};

    pub(crate) fn serialize<S: Serializer>(
        values: &[(OsString, OsString)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            values.iter().map(|(name, value)| {
                (OsText::from(name.as_os_str()), OsText::from(value.as_os_str()))
            }),
        )
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let texts: Vec<(OsText, OsText)> = Vec::deserialize(deserializer)?;
        Ok(texts.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
