// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a release costs in a session that was delegated again and again, next to one in no session: both asked by a
//! process below as many program images, each of which has an identity and is over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent_proto::v1::OpenSessionRequest;
use anyhow::{Context as _, anyhow, ensure};

use crate::client::Client;
use crate::daemon::{ALL_LEASES, Installed, Plan};
use crate::report::{Budget, Report, Row};
use crate::statistics::{Sorted, ratios};
use crate::{Setting, say};

const PLAN: Plan = Plan { name: "session", durability: "written", policies: 10, leases: ALL_LEASES };
/// How often the session is delegated.
const DEPTH: usize = 8;
const FLAG: &str = "--asker";

/// A process that asks when it is told to.
struct Asker {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Asker {
    /// Below so many images; with a session, each opens one in that of the image before.
    fn start(socket: &Path, in_session: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(FLAG).arg(socket).arg(in_session.to_string()).arg(DEPTH.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("bug: no output")?);
        Ok(Self { child, answers })
    }

    /// How long each of so many takes.
    fn in_turn(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let input = self.child.stdin.as_mut().context("bug: no input")?;
        writeln!(input, "{count}")?;
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "a process that asks has ended");
        line.split_whitespace().map(|nanos| Ok(Duration::from_nanos(nanos.parse()?))).collect()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // It ends when nobody tells it anything more.
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let installed = Installed::new(setting, &PLAN)?;
    let daemon = installed.start()?;
    let (rounds, block) = setting.times((20, 500), (6, 200));
    say(format_args!("releases in a session of depth {DEPTH}, {rounds} rounds of {block}"));
    let mut inside = Asker::start(&daemon.socket, true)?;
    let mut outside = Asker::start(&daemon.socket, false)?;
    let (mut in_session, mut without) = (Vec::new(), Vec::new());
    // The first ones collect evidence and fill caches, on both sides.
    inside.in_turn(block)?;
    outside.in_turn(block)?;
    for round in 0..rounds {
        let mut order = [(&mut inside, &mut in_session), (&mut outside, &mut without)];
        if round % 2 == 1 {
            order.reverse();
        }
        for (asker, p50) in order {
            p50.push(Sorted::of(asker.in_turn(block)?).median());
        }
    }
    let ratio = ratios(&in_session, &without);
    let (low, high) = ratio.quartiles();
    let middle = |samples: Vec<f64>| Sorted::new(samples).median() * 1e6;
    let detail = format!(
        "{:.0} µs / {:.0} µs; middle half of the rounds {low:.2}–{high:.2}",
        middle(in_session),
        middle(without)
    );
    let what = format!("release in a session of depth {DEPTH} / in no session, p50");
    report.row(Row::ratio(what, ratio.median(), detail, Budget::AtMost(1.2)));
    Ok(())
}

/// The other end of an [`Asker`]: opens a session if it is to, then becomes the next image, and asks when it is the last.
pub(crate) fn ask(socket: &Path, in_session: bool, images: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if in_session {
        runtime.block_on(async {
            let mut client = Client::connect(socket).await?;
            let opened = client.service().open_session(OpenSessionRequest::default()).await;
            opened.map(drop).map_err(|status| anyhow!("no session: {:?} {}", status.code(), status.message()))
        })?;
    }
    if let Some(next) = images.checked_sub(1) {
        let mut command = Command::new(std::env::current_exe()?);
        return Err(command.arg(FLAG).arg(socket).arg(in_session.to_string()).arg(next.to_string()).exec().into());
    }
    runtime.block_on(async {
        let mut client = Client::connect(socket).await?;
        for line in std::io::stdin().lines() {
            let samples = client.in_turn(line?.parse()?).await?;
            client.give_back().await?;
            let nanos: Vec<String> = samples.iter().map(|sample| sample.as_nanos().to_string()).collect();
            println!("{}", nanos.join(" "));
        }
        Ok(())
    })
}
