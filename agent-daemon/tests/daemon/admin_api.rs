// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The operators' socket with a real client.

use agent_daemon::testing::Setup;
use agent_proto::admin::{
    DecisionsRequest, DoctorRequest, LeasesRequest, ListSecretsRequest, ProcessesRequest, PutSecretRequest,
    QueryAuditRequest, ReloadRequest, RevokeRequest, StatusRequest, VerifyAuditRequest, WatchRequest, revoke_request,
};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::served::{Served, soon};
use super::{is_active, release, token};

#[tokio::test]
async fn status_says_how_it_stands() {
    let served = Served::new(Setup::default());
    release(&served.t).await;
    let status = served.admin().await.status(StatusRequest {}).await.unwrap().into_inner();
    let shown = format!("{status:?}");
    assert!(shown.contains("example.org") && shown.contains("serving"), "{shown}");
}

#[tokio::test]
async fn a_hook_that_stopped_working_after_start_is_found_by_doctor() {
    let served = Served::new(Setup::default());
    let mut admin = served.admin().await;
    let whole = format!("{:?}", admin.doctor(DoctorRequest {}).await.unwrap().into_inner());
    assert!(!whole.contains("the link is gone"), "{whole}");
    served.view.break_egress("the link is gone");
    let broken = format!("{:?}", admin.doctor(DoctorRequest {}).await.unwrap().into_inner());
    assert!(broken.contains("the link is gone"), "{broken}");
}

#[tokio::test]
async fn processes_and_leases_are_listed() {
    let served = Served::new(Setup::default());
    let released = release(&served.t).await;
    let mut admin = served.admin().await;
    let mut processes = admin.processes(ProcessesRequest::default()).await.unwrap().into_inner();
    let mut seen = String::new();
    while let Some(page) = soon("a page", processes.next()).await {
        seen.push_str(&format!("{:?}", page.unwrap()));
    }
    assert!(seen.contains("spiffe://example.org/agent/a"), "{seen}");
    let mut leases = admin.leases(LeasesRequest::default()).await.unwrap().into_inner();
    let mut seen = String::new();
    while let Some(page) = soon("a page", leases.next()).await {
        seen.push_str(&format!("{:?}", page.unwrap()));
    }
    assert!(seen.contains(released.lease.id.as_str()), "{seen}");
    assert!(!seen.contains(&token(&released)), "never the token");
}

#[tokio::test]
async fn an_operator_revokes_and_is_named_in_the_record() {
    let served = Served::new(Setup::default());
    let released = release(&served.t).await;
    let request = RevokeRequest {
        what: Some(revoke_request::What::LeaseId(released.lease.id.to_string())),
        reason: "leaked".to_owned(),
    };
    served.admin().await.revoke(request).await.unwrap();
    assert!(!is_active(&served.t, &released));
    let by = &served.t.last("revoke")["by"];
    assert_eq!((&by["uid"], &by["tgid"]), (&rustix::process::geteuid().as_raw().into(), &served.t.tgid.into()));
}

#[tokio::test]
async fn revoking_nothing_in_particular_is_refused() {
    let served = Served::new(Setup::default());
    let released = release(&served.t).await;
    let status = served.admin().await.revoke(RevokeRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(is_active(&served.t, &released));
}

#[tokio::test]
async fn a_reload_reports_what_is_wrong_and_keeps_the_old_set() {
    let served = Served::new(Setup::default());
    served.t.sources.write_policies("permit (");
    let outcome = served.admin().await.reload(ReloadRequest {}).await;
    let shown = format!("{outcome:?}");
    assert!(shown.contains("policies.cedar"), "{shown}");
    release(&served.t).await;
    assert_eq!(served.t.last("reload")["by"]["tgid"], served.t.tgid);
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let catalog = Setup::catalog("enforce", "required", "key");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    let mut admin = served.admin().await;
    let put = PutSecretRequest { name: "api-key".to_owned(), secret: b"canary-77aa".to_vec() };
    assert!(!format!("{put:?}").contains("canary"), "the message's Debug");
    admin.put_secret(put).await.unwrap();
    let listed = admin.list_secrets(ListSecretsRequest {}).await.unwrap().into_inner();
    assert!(format!("{listed:?}").contains("api-key") && !format!("{listed:?}").contains("canary"));
    assert_eq!(release(&served.t).await.secret.as_slice(), b"canary-77aa");
    assert!(!served.t.records().iter().any(|record| record.to_string().contains("canary")));
    let decisions = admin.decisions(DecisionsRequest::default()).await.unwrap().into_inner();
    assert!(!format!("{decisions:?}").contains("canary"));
}

#[tokio::test]
async fn the_audit_log_is_read_and_verified_over_the_socket() {
    let served = Served::new(Setup::default());
    release(&served.t).await;
    let mut admin = served.admin().await;
    let mut lines = admin.query_audit(QueryAuditRequest::default()).await.unwrap().into_inner();
    let mut seen = String::new();
    while let Some(page) = soon("a page", lines.next()).await {
        seen.push_str(&format!("{:?}", page.unwrap()));
    }
    assert!(seen.contains("decision"), "{seen}");
    let mut progress = admin.verify_audit(VerifyAuditRequest {}).await.unwrap().into_inner();
    let mut last = None;
    while let Some(page) = soon("progress", progress.next()).await {
        last = Some(page.unwrap());
    }
    assert!(last.is_some());
}

#[tokio::test]
async fn a_watcher_sees_decisions_and_does_not_hold_up_the_end() {
    let served = Served::new(Setup::default());
    let mut admin = served.admin().await;
    let mut watching = admin
        .watch(WatchRequest { decisions: true, leases: true, ..WatchRequest::default() })
        .await
        .unwrap()
        .into_inner();
    let released = release(&served.t).await;
    let mut seen = String::new();
    while !seen.contains(released.lease.id.as_str()) {
        seen.push_str(&format!("{:?}", soon("an event", watching.next()).await.unwrap().unwrap()));
    }
    assert!(!seen.contains(&token(&released)));
    served.stop().await;
}
