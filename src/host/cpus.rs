//! Sets of CPUs in the two ways in which the kernel writes them: lists ("0-3,8") and masks of 32-bit words ("ff,00000000").
//! Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// CPUs beyond this are taken for a mistake, and not for memory to be allocated.
const MAX_CPU: usize = 8_191;

/// A set of CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(pub BTreeSet<usize>);

impl Cpus {
    /// Those of both.
    pub fn shared_with(&self, other: &Cpus) -> Cpus {
        Cpus(self.0.intersection(&other.0).copied().collect())
    }

    /// Those that the other has not.
    pub fn without(&self, other: &Cpus) -> Cpus {
        Cpus(self.0.difference(&other.0).copied().collect())
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From a mask; spaces and leading zeros do not matter.
    pub fn from_mask(mask: &str) -> Result<Cpus, String> {
        let digits: Vec<u32> = mask
            .trim()
            .chars()
            .filter(|letter| *letter != ',')
            .map(|letter| letter.to_digit(16).ok_or_else(|| format!("{mask:?} is no mask of CPUs")))
            .collect::<Result<_, _>>()?;
        let digits = digits.iter().rev().enumerate();
        let bits =
            digits.flat_map(|(at, digit)| (0..4).filter(move |bit| digit >> bit & 1 == 1).map(move |bit| 4 * at + bit));
        Ok(bits.collect())
    }

    /// As a mask.
    pub fn mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last / 32 + 1);
        let mut mask = vec![0u32; words];
        self.0.iter().for_each(|cpu| mask[cpu / 32] |= 1 << (cpu % 32));
        let mut words = mask.iter().rev();
        let first = words.next().map(|word| format!("{word:x}")).into_iter();
        first.chain(words.map(|word| format!("{word:08x}"))).collect::<Vec<_>>().join(",")
    }
}

impl FromIterator<usize> for Cpus {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Cpus {
        Cpus(cpus.into_iter().collect())
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(list: &str) -> Result<Cpus, String> {
        let wrong = || format!("{list:?} is no list of CPUs, as 0-3,8");
        let mut cpus = BTreeSet::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (usize, usize) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
            if from > to || to > MAX_CPU {
                return Err(wrong());
            }
            cpus.extend(from..=to);
        }
        Ok(Cpus(cpus))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for cpu in &self.0 {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == *cpu => *end = *cpu,
                _ => runs.push((*cpu, *cpu)),
            }
        }
        let write = |(from, to): &(usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        out.write_str(&runs.iter().map(write).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_say_the_same() {
        for (list, mask) in [("0-3,8", "10f"), ("", "0"), ("32", "1,00000000"), ("0,63-64", "1,80000000,00000001")] {
            let cpus: Cpus = list.parse().unwrap();
            assert_eq!((cpus.to_string(), cpus.mask()), (list.to_string(), mask.to_string()));
            assert_eq!(Cpus::from_mask(mask), Ok(cpus.clone()));
            assert_eq!(Cpus::from_mask(&format!("0000{mask}\n")), Ok(cpus));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for list in ["a", "3-1", "1-", "0-99999999999", "0-8192"] {
            assert!(list.parse::<Cpus>().is_err(), "{list}");
        }
        assert!(Cpus::from_mask("xyz").is_err());
    }
}
