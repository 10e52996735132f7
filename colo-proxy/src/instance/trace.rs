//! The kernel programs' log at debug level, copied to the daemon's own.

use std::io;

use aya_log::EbpfLogger;

use crate::gate::readable::{Drained, Readable};

/// The programs' log, if they have one.
pub(crate) struct ProgramLog(Option<(EbpfLogger<&'static dyn log::Log>, Readable)>);

impl ProgramLog {
    pub(crate) fn new(logger: Option<EbpfLogger<&'static dyn log::Log>>) -> io::Result<Self> {
        let Some(logger) = logger else { return Ok(Self(None)) };
        let readable = Readable::new(&logger)?;
        Ok(Self(Some((logger, readable))))
    }

    /// Waits for log records of the programs, and writes them to the log.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        let Some((logger, readable)) = &mut self.0 else { return std::future::pending().await };
        readable
            .read(|| {
                logger.flush();
                Ok(((), Drained::Yes))
            })
            .await
    }
}
