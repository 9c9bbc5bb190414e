//! Labs: namespaces, booted VMs, stores and browsers for the scenarios.
