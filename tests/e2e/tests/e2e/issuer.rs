// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use e2e::{OTHER, SOON, Setup, Talker, World, python_script};
use serde_json::Value;

/// An issuer of users' tokens that we did not write the library of.
pub(crate) struct Issuer {
    address: String,
    pub(crate) url: String,
    _process: Talker,
}

impl Issuer {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let process = python_script(world, OTHER, "issuer.py", &[])?;
        let url = process.next(SOON)?["issuer"].as_str().context("no address")?.to_owned();
        let address = url.strip_prefix("http://").context("not http")?.to_owned();
        Ok(Self { address, url, _process: process })
    }

    /// Has the daemon believe it.
    pub(crate) fn name_it(&self, world: &mut World, setup: &Setup) -> Result<()> {
        let issuer = format!("\n[[issuer]]\nname = \"corp\"\nurl = \"{}\"\naudiences = [\"agent-daemon\"]\n", self.url);
        world.rewrite(setup.clone().with_entries(&issuer))?;
        ensure!(world.ask(&["reload"])?["accepted"] == true, "the issuer is not taken");
        Ok(())
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    pub(crate) fn token(&self, claims: &str) -> Result<String> {
        Ok(self.get(&format!("/token?{claims}"))?["token"].as_str().context("no token")?.to_owned())
    }
}
