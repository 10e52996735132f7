//! `colo-proxy colo-compare`: the engine between QEMU's sockets.

use anyhow::Result;
use colo_lab::colo_compare::{Engine, Setup, Stand, datagram, segment};

#[test]
fn either_socket_in_either_role_with_and_without_headers() -> Result<()> {
    for (tcp, is_client, vnet_hdr) in [
        (false, false, false),
        (false, false, true),
        (false, true, false),
        (true, false, false),
        (true, true, true),
    ] {
        let setup = Setup { tcp, is_client, vnet_hdr, ..Setup::default() };
        let mut stand = Stand::new(Engine::Ours, &setup)?;
        let data = segment(1000).ack(1).data(b"hello").build();
        stand.primary(&data)?;
        stand.expect(&[])?;
        stand.secondary(&data)?;
        stand.expect(&[&data])?;
        let late = datagram(7).data(b"late").build();
        stand.primary(&late)?;
        stand.expect(&[])?;
        stand.checkpoint()?;
        stand.expect(&[&late])?;
        assert!(stand.process.terminate()?.success());
    }
    Ok(())
}
