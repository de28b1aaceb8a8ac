//! Whose journal this is: nothing is done in the name of another run, or to other databases.

use super::{
    ports::{places_of, primary_of},
    prepare::Preparation,
};
use crate::error::{Exit, Failure};

impl Preparation {
    /// The journal is of this run, and between these primaries. Where rows are read does not matter:
    /// a standby that is lost keeps nobody from ending a run.
    ///
    /// # Errors
    ///
    /// It is of another one; nothing was done.
    pub(super) fn is_of_this_run(&self) -> Result<(), Failure> {
        let standing = self.book.standing();
        if let Some(begun) = standing.run.as_ref().filter(|begun| **begun != self.run) {
            let folder = self.book.folder();
            return Err(Failure::new(format!(
                "the journal in {} is of run {begun}, and the configuration names {}",
                folder.display(),
                self.run
            ))
            .code("CUT0504")
            .remedy(format!(
                "name it {begun} again; for another run, end this one first, then use another \
                 `state_dir`"
            ))
            .exit(Exit::Usage));
        }
        self.is_between(primary_of)
    }

    /// The same, and rows are read where they were.
    ///
    /// # Errors
    ///
    /// As [`Preparation::is_of_this_run`].
    pub(super) fn is_between_these(&self) -> Result<(), Failure> {
        self.is_between(|address| address)
    }

    fn is_between(&self, part: fn(&str) -> &str) -> Result<(), Failure> {
        let standing = self.book.standing();
        let Some((blue, green)) = &standing.addresses else { return Ok(()) };
        let (now_blue, now_green) = (&self.ports.blue.address, &self.ports.green.address);
        let place = |address: &String| places_of(part(address));
        if [blue, green].map(place) == [now_blue, now_green].map(place) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "run {} was begun between {blue} and {green}, and the configuration names {now_blue} \
             and {now_green}",
            self.run
        ))
        .code("CUT0504")
        .remedy("restore the addresses; for other databases use another `run` and `state_dir`")
        .exit(Exit::Usage))
    }
}
