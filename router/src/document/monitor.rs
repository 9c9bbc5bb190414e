//! `monitorservice` (router contract 3.20): what the health checks look at.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{DocumentError, Node};

/// A `monitorservice` document; what it does not name stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitorChange {
    /// Whether checks run at all.
    pub enabled: Option<bool>,
    /// Names of checks to leave out.
    pub excluded: Option<Vec<String>>,
    /// Parameters of the checks, as the management server writes them.
    pub parameters: Option<BTreeMap<String, String>>,
}

impl MonitorChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let enabled = match root.get("health_checks_enabled") {
            None => None,
            Some(_) => Some(root.flag("health_checks_enabled", false)?),
        };
        let listed = root.text("excluded_health_checks")?;
        let excluded = root.names("excluded_health_checks").then(|| {
            let names = listed.iter().flat_map(|text| text.split(',')).map(str::trim);
            names.filter(|t| !t.is_empty()).map(str::to_owned).collect()
        });
        let parameters = match root.get("health_checks_config") {
            None => None,
            Some(Value::Object(map)) => {
                Some(map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
            }
            Some(_) => return Err(root.error("health_checks_config", "is no object")),
        };
        Ok(Self { enabled, excluded, parameters })
    }
}
