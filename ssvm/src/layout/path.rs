//! Paths below the root of a store.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest path in bytes; also the longest key of an object store.
const LONGEST: usize = 1024;
/// Longest component in bytes.
const LONGEST_COMPONENT: usize = 255;

/// A relative path without empty, `.` or `..` components. Slashes at either end and doubled
/// slashes are dropped when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct StorePath(String);

/// Why a text is not a path below a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is refused: {reason}")]
pub(crate) struct PathError {
    path: String,
    reason: &'static str,
}

impl StorePath {
    /// Reads a path.
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        let fail = |reason| PathError { path: text.chars().take(120).collect(), reason };
        let components: Vec<&str> = text.split('/').filter(|c| !c.is_empty()).collect();
        if components.is_empty() {
            return Err(fail("it is empty"));
        }
        for component in &components {
            if *component == "." || *component == ".." {
                return Err(fail("it leaves its folder"));
            }
            if component.len() > LONGEST_COMPONENT {
                return Err(fail("a component is too long"));
            }
            if component.chars().any(char::is_control) {
                return Err(fail("it contains a control character"));
            }
        }
        let path = components.join("/");
        if path.len() > LONGEST {
            return Err(fail("it is too long"));
        }
        Ok(Self(path))
    }

    /// This path with one more component.
    pub(crate) fn join(&self, name: &str) -> Result<Self, PathError> {
        if name.contains('/') {
            return Err(PathError {
                path: name.chars().take(120).collect(),
                reason: "it is not one component",
            });
        }
        Self::parse(&format!("{}/{name}", self.0))
    }

    /// The folder that holds it; `None` for a path of one component.
    pub(crate) fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The last component.
    pub(crate) fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// All components.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path as text, without a slash at either end.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether something at this path may be removed: only below an account's folder of one of the
    /// known kinds, never a whole account or kind.
    pub(crate) fn removable(&self) -> Result<(), PathError> {
        let components: Vec<&str> = self.components().collect();
        let enough = match components.as_slice() {
            ["template", "tmpl", rest @ ..] => rest.len() >= 2,
            ["volumes" | "snapshots" | "checkpoints", rest @ ..] => rest.len() >= 2,
            _ => false,
        };
        if enough {
            Ok(())
        } else {
            Err(PathError {
                path: self.0.clone(),
                reason: "it is not the place of a template, volume or snapshot",
            })
        }
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for StorePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slashes_are_tidied() {
        let path = StorePath::parse("/template/tmpl/2/201//x.qcow2/").unwrap();
        assert_eq!(path.as_str(), "template/tmpl/2/201/x.qcow2");
        assert_eq!(path.name(), "x.qcow2");
        assert_eq!(path.parent().unwrap().as_str(), "template/tmpl/2/201");
    }

    #[test]
    fn what_leaves_the_store_is_refused() {
        for bad in ["", "/", "..", "a/../b", "a/./b", "a/\0", "a\n/b", "../../etc/passwd", &"x".repeat(256)] {
            assert!(StorePath::parse(bad).is_err(), "{bad:?}");
        }
        let path = StorePath::parse("a").unwrap();
        assert!(
            path.join("b/c").is_err() && path.join("..").is_err() && path.join("").is_ok_and(|p| p == path)
        );
    }

    #[test]
    fn only_single_things_are_removable() {
        for good in ["template/tmpl/2/201", "volumes/2/5", "snapshots/2/31/51ab"] {
            assert!(StorePath::parse(good).unwrap().removable().is_ok(), "{good}");
        }
        for bad in ["template", "template/tmpl/2", "volumes/2", "snapshots", "etc/a/b/c"] {
            assert!(StorePath::parse(bad).unwrap().removable().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_leaves_the_store(text in ".{0,200}") {
            if let Ok(path) = StorePath::parse(&text) {
                prop_assert!(path.components().all(|c| !c.is_empty() && c != "." && c != ".."));
                prop_assert!(!path.as_str().starts_with('/'));
                prop_assert_eq!(StorePath::parse(path.as_str()).unwrap(), path);
            }
        }
    }
}
