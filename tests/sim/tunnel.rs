//! One end of a tunnel: what it says, what it heard, when it shuts its side.

use crate::dice::Dice;
use crate::wire::{Ending, Wire};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuts {
    AtOnce,
    /// When the other end has.
    After,
    Never,
}

pub struct Tunnel {
    pub out: Vec<u8>,
    pub sent: usize,
    pub got: Vec<u8>,
    pub shuts: Shuts,
    pub shut: bool,
    /// The other end has shut its side, and all that it said was heard.
    pub saw_end: bool,
}

impl Tunnel {
    pub fn new(out: Vec<u8>, dice: &mut Dice) -> Tunnel {
        Tunnel {
            out,
            sent: 0,
            got: Vec::new(),
            shuts: dice.pick(&[Shuts::AtOnce, Shuts::AtOnce, Shuts::After, Shuts::Never]),
            shut: false,
            saw_end: false,
        }
    }

    /// Nobody but a deadline ends it.
    pub fn stays_open(&self) -> bool {
        !self.shut && self.shuts == Shuts::Never
    }

    pub fn can_speak(&self, wire: &Wire) -> bool {
        !self.shut && self.sent < self.out.len() && wire.to_proxy.room() > 0
    }

    pub fn can_shut(&self) -> bool {
        let time = match self.shuts {
            Shuts::AtOnce => true,
            Shuts::After => self.saw_end,
            Shuts::Never => false,
        };
        !self.shut && self.sent == self.out.len() && time
    }

    pub fn speak(&mut self, wire: &mut Wire, dice: &mut Dice) {
        let most = dice.between(1, self.out.len() - self.sent);
        self.sent += wire.push(&self.out[self.sent..], most);
    }

    pub fn shut(&mut self, wire: &mut Wire, dice: &mut Dice) {
        self.shut = true;
        wire.end(Ending::Shut, dice);
    }
}
