// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl audit trace`: everything that the log says about one thing, put together: for whom, in which session, by
//! which programs, what was decided, on which connection, and what became of the credential.

mod html;
mod steps;
mod text;
mod tree;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use agent_proto::admin::{MemberFilter, QueryAuditRequest};
use serde::Serialize;
use serde_json::Value;

use self::tree::{Told, field};
use crate::Verdict;
use crate::cli::{Format, TraceArgs};
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::id::{ExecId, Trace};
use crate::output::{Line, Output, Style};
use crate::time;

const SCHEMA: &str = "agentctl.audit.trace/v1";
/// Records that one picture may be made of.
const MAX_RECORDS: usize = 100_000;
/// Sessions in it, those that were delegated from one another included.
const MAX_SESSIONS: usize = 4096;
const MAX_READINGS: usize = 4;
/// Exchanges one after the other; a daemon makes no more than eight.
const MAX_EXCHANGES: usize = 16;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    told: &'a Told,
}

pub(crate) async fn run(client: &Client, args: &TraceArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let found = Log { client, args, records: Cell::new(0) }.collect().await?;
    let told = Told::of(&found);
    if let Some(path) = &args.html {
        let page = html::page(&told, &args.subject.to_string());
        write(path, &page, output)?;
    } else if output.format() == Format::Html {
        output.raw(html::page(&told, &args.subject.to_string()).as_bytes())?;
    } else if output.is_json() {
        output.document(SCHEMA, &Document { told: &told })?;
    } else if told.is_empty() {
        let nothing = format!("the log says nothing about {}", args.subject);
        output.line(&Line::painted(Style::Warn, nothing))?;
    } else {
        text::print(&told, output)?;
    }
    Ok(Verdict::ok_if(!told.is_empty()))
}

fn write(path: &Path, page: &str, output: &mut Output<'_>) -> Result<(), Error> {
    if path == Path::new("-") {
        return output.raw(page.as_bytes());
    }
    fs::write(path, page).map_err(|source| Error::WritePage { path: path.to_owned(), source })
}

/// What a picture is made of.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The decisions that were asked about.
    pub(crate) decisions: Vec<Value>,
    /// Those that opened the sessions in which they were made, and the ones that these were delegated from.
    pub(crate) openings: Vec<Value>,
    /// How sessions ended.
    pub(crate) session_ends: Vec<Value>,
    /// How credentials ended.
    pub(crate) lease_ends: Vec<Value>,
    /// The steps of the sessions that decisions name a step of.
    pub(crate) steps: Vec<Value>,
    /// How they ended.
    pub(crate) step_ends: Vec<Value>,
}

fn ids(records: &[Value], name: &str) -> BTreeSet<String> {
    records.iter().map(|record| field(record, name)).filter(|id| !id.is_empty()).collect()
}

/// The audit log, as far as a person wants to see it.
struct Log<'a> {
    client: &'a Client,
    args: &'a TraceArgs,
    /// Those that were kept so far.
    records: Cell<usize>,
}

impl Log<'_> {
    async fn collect(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        let decisions = || QueryAuditRequest { kind: "decision".to_owned(), ..QueryAuditRequest::default() };
        let member = |path: &str, value: &str| vec![MemberFilter { path: path.to_owned(), value: value.to_owned() }];
        let wanted = match &self.args.subject {
            Trace::User(user) => QueryAuditRequest { members: member("user", user), ..decisions() },
            Trace::Session(id) => QueryAuditRequest { members: member("session_id", id), ..decisions() },
            Trace::Lease(id) => QueryAuditRequest { lease_id: id.clone(), ..decisions() },
            Trace::Decision(id) => QueryAuditRequest { decision_id: id.clone(), ..decisions() },
            Trace::Exec(ExecId(id)) => QueryAuditRequest { exec_id: *id, ..decisions() },
            Trace::Connection(cookie) => {
                QueryAuditRequest { members: member("connection.cookie", &cookie.to_string()), ..decisions() }
            }
        };
        found.decisions = self.records(wanted).await?;
        if let Trace::Session(id) = &self.args.subject {
            self.delegated(id, &mut found).await?;
        }
        // Of a user or a session all are there: what is exchanged stays in its session.
        if !matches!(self.args.subject, Trace::User(_) | Trace::Session(_)) {
            self.exchanged(&mut found.decisions).await?;
        }
        self.openings(&mut found).await?;
        let (sessions, leases) = (ids(&found.openings, "session_id"), ids(&found.decisions, "lease_id"));
        // One reading of the log for all of them, and none where there is nothing to find.
        let ends = async |kind: &str, name: &str, ids: &BTreeSet<String>| {
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            self.all_of(kind, |record| ids.contains(&field(record, name))).await
        };
        found.session_ends = ends("session_ended", "session_id", &sessions).await?;
        found.lease_ends = ends("lease_ended", "lease_id", &leases).await?;
        let stepping = ids(&found.decisions, "step.session_id");
        found.steps = self.with_any("step", "session_id", &stepping).await?;
        found.step_ends = self.with_any("step_ended", "session_id", &stepping).await?;
        Ok(found)
    }

    /// What was decided in the sessions that were delegated from one.
    async fn delegated(&self, id: &str, found: &mut Found) -> Result<(), Error> {
        let mut above = vec![id.to_owned()];
        let mut seen = BTreeSet::from([id.to_owned()]);
        while let Some(id) = above.pop() {
            for opening in self.decisions_with("session.parent", &id).await? {
                let child = field(&opening, "session_id");
                if field(&opening, "outcome") == "allow" && seen.len() < MAX_SESSIONS && seen.insert(child.clone()) {
                    found.decisions.extend(self.decisions_with("session_id", &child).await?);
                    above.push(child);
                }
            }
        }
        Ok(())
    }

    /// What tokens were exchanged for, and what they were exchanged from.
    async fn exchanged(&self, decisions: &mut Vec<Value>) -> Result<(), Error> {
        let mut known = ids(decisions, "decision_id");
        let (mut seen_above, mut seen_below) = (ids(decisions, "lease_id"), BTreeSet::new());
        for _ in 0..MAX_EXCHANGES {
            let above: BTreeSet<_> = &ids(decisions, "subject_lease_id") - &seen_above;
            let below: BTreeSet<_> = &ids(decisions, "lease_id") - &seen_below;
            if above.is_empty() && below.is_empty() {
                break;
            }
            let mut more = self.with_any("decision", "lease_id", &above).await?;
            more.extend(self.with_any("decision", "subject_lease_id", &below).await?);
            decisions.extend(more.into_iter().filter(|one| known.insert(field(one, "decision_id"))));
            seen_above.extend(above);
            seen_below.extend(below);
        }
        Ok(())
    }

    /// The decisions that opened the sessions of those found, and of what these were delegated from.
    async fn openings(&self, found: &mut Found) -> Result<(), Error> {
        let is_opening = |record: &Value| field(record, "action") == "act_for" && field(record, "outcome") == "allow";
        found.openings = found.decisions.extract_if(.., |record| is_opening(record)).collect();
        let mut known: BTreeSet<String> = found.openings.iter().map(|opening| field(opening, "session_id")).collect();
        let mut wanted: Vec<String> = found.decisions.iter().map(|record| field(record, "session_id")).collect();
        wanted.extend(found.openings.iter().map(|opening| field(opening, "session.parent")));
        while let Some(id) = wanted.pop() {
            if id.is_empty() || known.len() >= MAX_SESSIONS || !known.insert(id.clone()) {
                continue;
            }
            let mut openings = self.decisions_with("session_id", &id).await?;
            openings.retain(is_opening);
            wanted.extend(openings.iter().map(|opening| field(opening, "session.parent")));
            found.openings.extend(openings);
        }
        Ok(())
    }

    async fn decisions_with(&self, path: &str, value: &str) -> Result<Vec<Value>, Error> {
        let members = vec![MemberFilter { path: path.to_owned(), value: value.to_owned() }];
        self.all(QueryAuditRequest { kind: "decision".to_owned(), members, ..QueryAuditRequest::default() }).await
    }

    /// Those of a kind that are wanted, of all that there are.
    async fn all_of(&self, kind: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Error> {
        self.kept(QueryAuditRequest { kind: kind.to_owned(), ..QueryAuditRequest::default() }, is_wanted).await
    }

    /// Those of a kind with one of these values: one reading of the log for each of a few, and one for all of many.
    async fn with_any(&self, kind: &str, name: &str, values: &BTreeSet<String>) -> Result<Vec<Value>, Error> {
        if values.len() > MAX_READINGS {
            return self.all_of(kind, |record| values.contains(&field(record, name))).await;
        }
        let mut all = Vec::new();
        for value in values {
            let members = vec![MemberFilter { path: name.to_owned(), value: value.clone() }];
            let of_one = QueryAuditRequest { kind: kind.to_owned(), members, ..QueryAuditRequest::default() };
            all.extend(self.all(of_one).await?);
        }
        Ok(all)
    }

    /// Those of the time that is asked about.
    async fn records(&self, request: QueryAuditRequest) -> Result<Vec<Value>, Error> {
        let now = time::now();
        let moment = |moment: Option<time::Moment>| moment.map(|moment| moment.resolve(now));
        let (since, until) = (moment(self.args.since), moment(self.args.until));
        self.all(QueryAuditRequest { since, until, ..request }).await
    }

    async fn all(&self, request: QueryAuditRequest) -> Result<Vec<Value>, Error> {
        self.kept(request, |_| true).await
    }

    async fn kept(&self, request: QueryAuditRequest, is_wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Error> {
        let mut pages = self.client.pages(Patience::Finite, self.client.api().query_audit(request)).await?;
        let mut records = Vec::new();
        while let Some(page) = pages.next().await? {
            // A line that is no record is for `audit verify` to find.
            let read = page.records.iter().filter_map(|record| serde_json::from_str(record).ok());
            let before = records.len();
            records.extend(read.filter(&is_wanted));
            self.records.update(|kept| kept.saturating_add(records.len().saturating_sub(before)));
            if self.records.get() > MAX_RECORDS {
                return Err(Error::TraceTooLarge { limit: MAX_RECORDS });
            }
        }
        Ok(records)
    }
}
