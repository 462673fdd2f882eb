//! Faults of whole machines, done by the program that [`settings::machines`] names.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, command, ensure, settings};

/// The way to do something to machines.
#[derive(Clone, Debug)]
pub struct Machines {
    program: PathBuf,
}

/// A machine that something was done to. Dropped, it is well again, whatever became of the test.
#[derive(Debug)]
pub struct Fault {
    program: PathBuf,
    node: String,
    remedy: &'static str,
    healed: bool,
}

impl Machines {
    /// `None`, and a line that says so, where nothing can be done to machines.
    pub fn at_hand() -> Option<Machines> {
        let machines = settings::machines().map(|program| Machines { program });
        if machines.is_none() {
            eprintln!("skipped: E2E_MACHINES names no program that can switch a machine off");
        }
        machines
    }

    /// The machine loses its power; its disk stays.
    pub async fn kill(&self, node: &str) -> Result<Fault> {
        self.act("kill", node, "start").await
    }

    /// The machine's network cable is pulled.
    pub async fn isolate(&self, node: &str) -> Result<Fault> {
        self.act("isolate", node, "join").await
    }

    /// Every volume on a machine that is switched off is empty from now on.
    pub async fn wipe(&self, node: &str) -> Result<()> {
        command::output(&self.program, ["wipe", node]).await.map(drop)
    }

    async fn act(&self, action: &str, node: &str, remedy: &'static str) -> Result<Fault> {
        let fault = Fault { program: self.program.clone(), node: node.to_owned(), remedy, healed: false };
        command::output(&self.program, [action, node]).await?;
        Ok(fault)
    }
}

impl Fault {
    /// The machine is well again.
    pub fn heal(mut self) -> Result<()> {
        self.healed = true;
        ensure!(self.remedy_now(), "{} {} {} failed", self.program.display(), self.remedy, self.node);
        Ok(())
    }

    fn remedy_now(&self) -> bool {
        let status = Command::new(&self.program).args([self.remedy, &self.node]).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.healed && !self.remedy_now() {
            eprintln!("{} is not well: {} {} failed", self.node, self.program.display(), self.remedy);
        }
    }
}
