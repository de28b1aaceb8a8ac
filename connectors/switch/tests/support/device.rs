//! A small device with two ledgers behind it, for switches that are somebody's own program.

use async_trait::async_trait;
use cutover_core::model::side::Side;
use cutover_testkit::{Ledger, LineClient, Redirector, contract::switch::Client};

pub struct Device {
    pub blue: Ledger,
    pub green: Ledger,
    pub redirector: Redirector,
}

impl Device {
    pub async fn start() -> Self {
        let blue = Ledger::start(Side::Blue).await.unwrap();
        let green = Ledger::start(Side::Green).await.unwrap();
        let redirector = Redirector::start(&blue, &green).await.unwrap();
        Self { blue, green, redirector }
    }

    pub async fn client(&self) -> Box<dyn Client> {
        Box::new(Lines(LineClient::connect(self.redirector.clients()).await.unwrap()))
    }

    pub fn in_flight(&self) -> usize {
        self.blue.in_flight() + self.green.in_flight()
    }

    pub fn written(&self, side: Side) -> u64 {
        match side {
            Side::Blue => self.blue.written(),
            Side::Green => self.green.written(),
        }
    }
}

struct Lines(LineClient);

#[async_trait]
impl Client for Lines {
    async fn write(&mut self) -> Result<Side, String> {
        side(self.0.ask("write").await)
    }

    async fn begin(&mut self) -> Result<(), String> {
        self.0.ask("open").await.map(drop).map_err(|error| error.to_string())
    }

    async fn finish(&mut self) -> Result<Side, String> {
        side(self.0.ask("close").await)
    }
}

fn side(answer: std::io::Result<String>) -> Result<Side, String> {
    match &*answer.map_err(|error| error.to_string())? {
        "blue" => Ok(Side::Blue),
        "green" => Ok(Side::Green),
        other => Err(other.to_owned()),
    }
}
