use std::path::Path;

use super::*;
use crate::config::parse;

fn guest(text: &str) -> Guest {
    parse(text, Path::new("test.toml")).unwrap().remove(0)
}

const PRIMARY: &str = r#"
    [[guest]]
    name = "web"
    role = "primary"
    netdev = "tap0"
    mirror = "tcp:10.0.0.1:9003,server,nodelay"
    secondary_in = "tcp:0.0.0.0:9004,server"
    colo_frame = "qmp:unix:/run/web.qmp"
    migrate = "tcp:10.0.0.2:9998"
    vnet_hdr_support = true"#;

const SECONDARY: &str = r#"
    [[guest]]
    role = "secondary"
    netdev = "tap0"
    mirror = "tcp:10.0.0.1:9003"
    secondary_out = "unix:/run/out"
    colo_frame = "qmp:unix:/run/web.qmp"
    migrate = "tcp:10.0.0.2:9998""#;

fn here(text: &str) -> String {
    for_this_host(&guest(text)).unwrap()
}

fn there(text: &str) -> String {
    for_qemu_on_the_other_host(&guest(text)).unwrap()
}

#[test]
fn ours_needs_no_filters() {
    assert_eq!(
        here(PRIMARY),
        "# web: primary of tap0, no filters\n\
         -netdev tap,id=hn0,ifname=tap0,script=no,downscript=no,vhost=off\n\
         -device virtio-net-pci,netdev=hn0\n\
         -qmp unix:/run/web.qmp,server=on,wait=off\n"
    );
    let secondary = here(SECONDARY);
    assert!(secondary.contains("vhost=off,vnet_hdr=off\n"), "{secondary}");
    assert!(secondary.contains("-incoming tcp:10.0.0.2:9998\n"), "{secondary}");
    assert!(!secondary.contains("-object"), "{secondary}");
}

#[test]
fn qemus_secondary_meets_our_primary() {
    assert_eq!(
        there(PRIMARY),
        "# the secondary on the other host, by QEMU's own filters\n\
         -netdev tap,id=hn0,ifname=tap0,script=no,downscript=no,vhost=off\n\
         -device virtio-net-pci,netdev=hn0\n\
         -chardev socket,id=mirror,host=10.0.0.1,port=9003,reconnect-ms=1000\n\
         # out: put the address of this host in the place of 0.0.0.0\n\
         -chardev socket,id=out,host=0.0.0.0,port=9004,reconnect-ms=1000\n\
         -object filter-redirector,netdev=hn0,id=f1,queue=tx,indev=mirror,vnet_hdr_support=on\n\
         -object filter-redirector,netdev=hn0,id=f2,queue=rx,outdev=out,vnet_hdr_support=on\n\
         -object filter-rewriter,netdev=hn0,id=rew0,queue=all,vnet_hdr_support=on\n\
         -incoming tcp:10.0.0.2:9998\n"
    );
}

#[test]
fn qemus_primary_meets_our_secondary() {
    let text = there(SECONDARY);
    for line in [
        "-chardev socket,id=mirror,host=10.0.0.1,port=9003,server=on,wait=off\n",
        "-chardev socket,id=secondary-in,path=/run/out,server=on,wait=off\n",
        "-object filter-mirror,netdev=hn0,id=m0,queue=tx,outdev=mirror\n",
        "-object filter-redirector,netdev=hn0,id=r0,queue=rx,indev=compare-out-0\n",
        "-object filter-redirector,netdev=hn0,id=r1,queue=rx,outdev=primary-in-0\n",
        "-object colo-compare,id=compare0,primary_in=primary-in,secondary_in=secondary-in,\
         outdev=compare-out,iothread=compare-thread\n",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("vnet_hdr_support"), "{text}");
}
/// Without `migrate` the address of a lane that ends on the secondary's host serves.
#[test]
fn a_qemu_waits_at_an_address_of_its_host() {
    let secondary = SECONDARY.replace("migrate = \"tcp:10.0.0.2:9998\"", "");
    let listens = secondary.replace("tcp:10.0.0.1:9003", "tcp:[fd00::2]:9003,server");
    assert!(here(&listens).contains("-incoming tcp:[fd00::2]:9998\n"));
    let primary = PRIMARY.replace("migrate = \"tcp:10.0.0.2:9998\"", "");
    let connects = primary.replace("tcp:0.0.0.0:9004,server", "tcp:10.0.0.2:9004");
    assert!(there(&connects).contains("-incoming tcp:10.0.0.2:9998\n"));
}

#[test]
fn a_qemu_never_waits_at_every_address() {
    let secondary = SECONDARY.replace("migrate = \"tcp:10.0.0.2:9998\"", "");
    let any = secondary.replace("tcp:10.0.0.1:9003", "tcp:0.0.0.0:9003,server");
    for text in [&secondary, &any] {
        let error = for_this_host(&guest(text)).unwrap_err();
        assert!(error.to_string().starts_with("guest `tap0`: "), "{error}");
        assert!(error.hint().contains("migrate = "));
    }
    let primary = PRIMARY.replace("migrate = \"tcp:10.0.0.2:9998\"", "");
    for_qemu_on_the_other_host(&guest(&primary)).unwrap_err();
    // The twin: without a COLO-frame of QEMU's nothing is migrated.
    let instant = secondary.replace("qmp:unix:/run/web.qmp", "instant");
    assert!(!here(&instant).contains("-incoming"));
}
