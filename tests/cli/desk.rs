//! A folder with a configuration, and commands run in it.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use assert_cmd::Command;

/// A configuration whose servers do not exist: nobody listens on port 1.
pub(crate) const CONFIG: &str = "\
run: shop
blue: { url: \"postgres://cutover@127.0.0.1:1/shop?sslmode=disable\", password: {env: BLUE_PASSWORD} }
green: { url: \"postgres://cutover@127.0.0.1:1/other?sslmode=disable\", password: {env: GREEN_PASSWORD} }
";

/// A folder of its own, gone with the test.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// With `cutover.yaml`.
    pub(crate) fn with(config: &str) -> Self {
        let desk = Self::empty();
        desk.write("cutover.yaml", config);
        desk
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a file in the temporary folder");
    }

    /// The program in this folder, without the environment of whoever runs the tests.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("COLUMNS", "100")
            .timeout(Duration::from_secs(60));
        command
    }

    /// The same with the passwords that [`CONFIG`] names.
    pub(crate) fn with_passwords(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.env("BLUE_PASSWORD", "hunter2").env("GREEN_PASSWORD", "hunter2");
        command
    }

    /// Runs it with the passwords.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.with_passwords(args).output().expect("the program starts")
    }

    /// Everything a command says, for a snapshot.
    pub(crate) fn said(&self, args: &[&str]) -> String {
        self.told(&self.run(args))
    }

    /// Everything an ended command has said, for a snapshot.
    pub(crate) fn told(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let said = format!(
            "exit: {}\n--- stdout\n{}\n--- stderr\n{}",
            output.status.code().map_or_else(|| "signal".to_owned(), |c| c.to_string()),
            text(&output.stdout),
            text(&output.stderr)
        );
        assert!(!said.contains("hunter2"), "a password was printed:\n{said}");
        said.replace(&self.path().display().to_string(), "[FOLDER]")
            .replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
    }
}

/// Compares what a command says with its snapshot.
macro_rules! assert_said {
    ($desk:expr, $name:literal, $args:expr) => {
        insta::assert_snapshot!($name, $desk.said(&$args))
    };
}

pub(crate) use assert_said;
