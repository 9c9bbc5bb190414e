//! How things lie in a store: paths that cannot leave it, property files, names of images.

mod naming;
mod path;
mod properties;

pub(crate) use naming::{image_name, mount_name, name_from_url};
pub(crate) use path::{PathError, StorePath};
pub(crate) use properties::{Entry, LIMIT as PROPERTIES_LIMIT, Properties, entry_of};
