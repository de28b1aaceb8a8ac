//! The PgBouncer switch on a real PgBouncer with two real servers.

mod support;

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use cutover_core::{
    model::side::Side,
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use cutover_switch::{Target, Targets};
use cutover_testkit::contract::switch;
use support::Rig;

const AT_BLUE: Routing = Routing { side: Some(Side::Blue), paused: Some(false) };
const AT_GREEN: Routing = Routing { side: Some(Side::Green), paused: Some(false) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_contract() {
    let rig = Rig::start(|options| options).await;
    switch::check(&rig).await;
}
