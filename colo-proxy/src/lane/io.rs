//! The bytes of records, between a stream and the engine's reader and outbox.

use std::io;

use colo_proxy_engine::record::{Outbox, RecordError, RecordReader};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Waits for more bytes and reads them. Can be cancelled without losing any.
pub async fn fill(
    reader: &mut RecordReader,
    from: &mut (impl AsyncRead + Unpin),
) -> Result<(), RecordError> {
    loop {
        let read = from.read_buf(reader.room()).await;
        if reader.on_read(read)? {
            return Ok(());
        }
    }
}

/// Writes some of the queued bytes. Can be cancelled: no byte is written twice.
pub async fn write(outbox: &mut Outbox, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let slices = outbox.slices();
    if slices.get().is_empty() {
        return Ok(());
    }
    let written = to.write_vectored(slices.get()).await?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    outbox.on_written(written);
    Ok(())
}
