//! Faults: how each is made, mended again, and what clients may be without meanwhile.

use std::time::{Duration, Instant};

use cutover_core::model::side::Side;
use cutover_sandbox::StopMode;
use cutover_testkit::Direction;
use tokio::time::sleep;

use crate::{
    history::Outage,
    plan::{Fault, Link, Part, Refusal, Spoil, Who},
    program::{limit_files, processes, signal},
    story::{MOVES, Story, open_move},
};

impl Story<'_> {
    fn guards(&self) -> Vec<u32> {
        let all = processes(&self.arena.world.desk);
        all.into_iter().filter(|(_, guard)| *guard).map(|(pid, _)| pid).collect()
    }

    /// The process of `cutover run` while there is one.
    fn running(&mut self) -> Option<u32> {
        let run = self.run.as_mut()?;
        run.exit().is_none().then(|| run.id())
    }

    fn kill_run(&mut self) {
        if let Some(run) = &mut self.run {
            run.kill9();
        }
    }

    /// Makes the fault, mends it, and notes what clients were without.
    pub(crate) async fn strike(&mut self, fault: Fault) {
        let from = Instant::now();
        let (before, was_open) = (self.owner(), self.move_is_open());
        match fault {
            Fault::Kill(who) => self.kill(who).await,
            Fault::Crash(part, down) => self.crash(part, down).await,
            Fault::Spoil(link, spoil) => self.spoil(link, spoil).await,
            Fault::DiskFull(lasting) => {
                for (pid, _) in processes(&self.arena.world.desk) {
                    limit_files(pid, "0");
                }
                sleep(lasting).await;
                for (pid, _) in processes(&self.arena.world.desk) {
                    limit_files(pid, "unlimited");
                }
            }
            Fault::GreenRefuses(how, lasting) => self.green_refuses(how, lasting).await,
            Fault::EndEarly => self.end_early().await,
            Fault::FreezeProgram(who, lasting) => {
                let run = self.running();
                let mut pids = if who == Who::Run { Vec::new() } else { self.guards() };
                if who != Who::Guard || pids.is_empty() {
                    pids.extend(run);
                }
                pids.iter().for_each(|pid| signal("STOP", *pid));
                sleep(lasting).await;
                pids.iter().for_each(|pid| signal("CONT", *pid));
            }
            Fault::FreezePart(part, lasting) => {
                let shop = &mut self.arena.world.shop;
                match part {
                    Part::Server(Side::Blue) => shop.blue.pause(),
                    Part::Server(Side::Green) => shop.green.pause(),
                    Part::Pooler => shop.pooler.pause(),
                }
                .expect("it freezes");
                sleep(lasting).await;
                let shop = &mut self.arena.world.shop;
                match part {
                    Part::Server(Side::Blue) => shop.blue.resume(),
                    Part::Server(Side::Green) => shop.green.resume(),
                    Part::Pooler => shop.pooler.resume(),
                }
                .expect("it thaws");
            }
        }
        let facts = self.arena.world.desk.facts(MOVES);
        let decided_and_open = open_move(&facts).is_some_and(|open| open.decided);
        let (after, moving) = (self.owner(), was_open || self.move_is_open());
        let owned = |side: Side| side == before || side == after || decided_and_open;
        let without = match fault {
            Fault::Crash(Part::Server(side), _) | Fault::FreezePart(Part::Server(side), _) => {
                owned(side)
            }
            Fault::Crash(Part::Pooler, _) | Fault::FreezePart(Part::Pooler, _) => true,
            // We cannot open what we closed.
            Fault::Spoil(link, Spoil::Refuse(_) | Spoil::Delay(..) | Spoil::Silence(_)) => {
                moving && !matches!(link, Link::Server(side) if !owned(side))
            }
            Fault::GreenRefuses(..) => owned(Side::Green),
            // Past the decision only the journal says so, and nobody can write it.
            Fault::DiskFull(_) => decided_and_open || before != after,
            Fault::FreezeProgram(Who::Both, _) => moving,
            Fault::FreezeProgram(..) | Fault::Kill(_) | Fault::Spoil(..) | Fault::EndEarly => false,
        };
        if without {
            self.outages.push(Outage { from, to: Instant::now(), what: format!("{fault:?}") });
        }
        let run_is_gone = self.run.as_mut().is_none_or(|run| run.exit().is_some());
        let nobody =
            run_is_gone && (self.guards().is_empty() || matches!(fault, Fault::DiskFull(_)));
        if nobody && moving && self.nobody_since.is_none() {
            self.nobody_since = Some(from);
        }
    }

    async fn kill(&mut self, who: Who) {
        let run = self.running();
        let guards = self.guards();
        match who {
            Who::Guard if !guards.is_empty() => guards.iter().for_each(|pid| signal("KILL", *pid)),
            Who::Both => {
                // Stopped first, so that neither sees the other's end.
                for pid in run.iter().chain(&guards) {
                    signal("STOP", *pid);
                }
                // One that was just being started.
                self.guards().iter().for_each(|pid| signal("KILL", *pid));
                self.kill_run();
            }
            Who::Run | Who::Guard => self.kill_run(),
        }
    }

    async fn crash(&mut self, part: Part, down: Duration) {
        let shop = &mut self.arena.world.shop;
        let server = match part {
            Part::Server(Side::Blue) => &mut shop.blue,
            Part::Server(Side::Green) => &mut shop.green,
            Part::Pooler => {
                shop.pooler.kill9().await.expect("the pooler ends");
                sleep(down).await;
                return shop.pooler.start_again().await.expect("the pooler starts");
            }
        };
        server.stop(StopMode::Immediate).await.expect("the server stops");
        sleep(down).await;
        server.start_again().await.expect("the server starts");
    }

    async fn spoil(&mut self, link: Link, spoil: Spoil) {
        let proxy = match link {
            Link::Server(side) => self.arena.proxy(side),
            Link::Console => &self.arena.console,
        };
        match spoil {
            Spoil::Close => proxy.cut(),
            Spoil::Reset => proxy.reset(),
            Spoil::Forget => proxy.forget(),
            Spoil::HalfCloseUp => proxy.half_close(Direction::Up),
            Spoil::HalfCloseDown => proxy.half_close(Direction::Down),
            Spoil::Refuse(lasting) => {
                proxy.refuse(true);
                proxy.cut();
                sleep(lasting).await;
                proxy.heal();
            }
            Spoil::Delay(by, lasting) => {
                proxy.set_both(|link| link.delay = by);
                sleep(lasting).await;
                proxy.heal();
            }
            Spoil::Silence(lasting) => {
                proxy.set_both(|link| link.black_hole = true);
                sleep(lasting).await;
                proxy.heal();
                proxy.reset();
            }
        }
    }

    async fn green_refuses(&mut self, how: Refusal, lasting: Duration) {
        let admin = self.arena.world.shop.green.connect("postgres").await.expect("a session");
        let say = async |sql: &str| admin.batch_execute(sql).await.expect("the superuser's word");
        say("SET default_transaction_read_only = off").await;
        match how {
            Refusal::ReadOnly => {
                say("ALTER SYSTEM SET default_transaction_read_only = on").await;
                say("SELECT pg_reload_conf()").await;
                sleep(lasting).await;
                say("ALTER SYSTEM RESET default_transaction_read_only").await;
                say("SELECT pg_reload_conf()").await;
            }
            Refusal::Revoked => {
                say("REVOKE shop FROM cutover").await;
                sleep(lasting).await;
                say("GRANT shop TO cutover").await;
            }
        }
    }
}
