//! Strangers that break the rules, some dozens of each kind; the long part of the suite has thousands.

use tests::lab::cpvm::{hostile, run, viewer::Viewer};

#[test]
fn no_server_and_no_client_does_harm_to_others() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        viewer.picture().await;
        hostile::servers(lab, 0..80).await;
        viewer.picture().await;
        hostile::clients(lab, 5901, 0..120).await;
        viewer.picture().await;
    });
}
