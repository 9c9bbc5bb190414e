//! Many documents in one file (router contract 2.5).

use super::Document;

/// Text of the file that `vr_cfg.sh -c` takes. `id` makes the names of the documents unique.
pub(crate) fn bundle(documents: &[Document], id: &str) -> String {
    let mut text =
        String::from("#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n");
    for (number, document) in documents.iter().enumerate() {
        let name = format!("{}.json.{id}-{number}", document.name);
        text.push_str(&format!("<file>\n/var/cache/cloud/{name}\n{}\n</file>\n", document.json));
        text.push_str(&format!("<script>\n/opt/cloud/bin/update_config.py {name}\n</script>\n"));
    }
    text
}
