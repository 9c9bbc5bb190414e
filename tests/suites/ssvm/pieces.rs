//! Downloads in pieces, from servers that serve one of them badly: the whole file, or a clear cause and nothing at all.

use std::sync::Arc;

use common::command::storage::{DownloadStatus, ImageFormat, StoreRole};
use futures_util::future::join_all;
use tests::lab::ssvm::{
    disk, in_lab,
    origin::{Act, Origin, Piece},
    read, template,
};

/// Megabytes of the file: what the slow connection brings while it is looked at, and enough pieces behind that.
const SIZE: usize = 24;

#[test]
fn a_file_in_pieces_is_whole_or_not_there() {
    in_lab(async |lab| {
        lab.ready().await;
        let file = read(&disk(lab.folder.path(), "qcow2", SIZE));
        let part = "HTTP Server answered with another part than asked for";
        let cases = [
            (Piece::Cut, None),
            (Piece::Short, None),
            (Piece::Whole, Some("HTTP Server does not support partial get")),
            (Piece::Elsewhere, Some(part)),
            (Piece::Longer, Some(part)),
            (Piece::Changed, Some("The file has changed on the HTTP Server meanwhile")),
        ];
        // Each host has so many connections: each case has its own. And there is room for the pieces of three files.
        let all: Vec<_> = (0_u8..).zip(cases).collect();
        for cases in all.chunks(3) {
            let runs = cases.iter().map(|&(number, (how, wanted))| {
                let (lab, file) = (&lab, &file);
                async move {
                    let address = format!("203.0.113.{}", 10 + number);
                    lab.namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", "lo"]);
                    let origin = Origin::start_at(&address, vec![Act::Pieces(Arc::clone(file), how)]).await;
                    let id = 830 + i64::from(number);
                    let store = lab.nfs("a", StoreRole::Image);
                    let command =
                        template(store, id, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2);
                    let answer = lab.download(&command).await;
                    let requests = origin.requests();
                    assert!(requests.len() > 4, "{how:?}: it was not asked for in pieces: {requests:?}");
                    assert!(
                        requests[1..].iter().all(|head| head.contains("if-range: \"v1\"")),
                        "{requests:?}"
                    );
                    let text = answer.error_string.clone().unwrap_or_default();
                    let names = lab.files(&format!("template/tmpl/2/{id}"));
                    match wanted {
                        None => {
                            assert_eq!(
                                answer.download_status,
                                DownloadStatus::Downloaded,
                                "{how:?}: {answer:?}"
                            );
                            let path = answer.install_path.expect("a path");
                            assert!(
                                *read(&lab.file("a", &path)) == **file,
                                "{how:?}: the image is not whole"
                            );
                            assert_eq!(names.len(), 2, "{how:?}: {names:?}");
                        }
                        Some(wanted) => {
                            assert_eq!(
                                answer.download_status,
                                DownloadStatus::DownloadError,
                                "{how:?}: {answer:?}"
                            );
                            assert!(text.contains(wanted), "{how:?}: {text}");
                            assert_eq!(names, [""; 0], "{how:?}");
                        }
                    }
                }
            });
            join_all(runs).await;
        }
    });
}
