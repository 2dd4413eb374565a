//! Which CPU takes the interrupts of the disk under a directory: where the log-writer thread of a pipeline waits best.
//! Reads /proc/interrupts and /sys, once at the start. Called by `node`.

use rustix::fs::{major, minor};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Of the device's interrupts so far, the share in percent that one CPU must have taken to be the one that takes them. A drive
/// with a queue for each CPU spreads them, and interrupts the CPU that submitted.
const NEARLY_ALL_PERCENT: u64 = 90;
/// Devices below devices (device mapper, partitions) that are followed.
const MAX_LAYERS: usize = 8;

/// The CPU that takes the interrupts of the disk under `dir`, or why there is no such CPU.
pub fn cpu_of_disk(dir: &Path) -> Result<usize, String> {
    let device = std::fs::metadata(dir).map_err(|error| format!("{}: {error}", dir.display()))?.dev();
    let blocks = Path::new("/sys/dev/block");
    let numbers = interrupts_of(&blocks.join(format!("{}:{}", major(device), minor(device))))?;
    let text = read(Path::new("/proc/interrupts"))?;
    busiest_cpu(&text, &numbers)
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// The interrupts of the bus device that holds a block device: those of the nearest directory above that lists some.
fn interrupts_of(block: &Path) -> Result<BTreeSet<u32>, String> {
    let device = undermost(block)?;
    for place in device.ancestors() {
        let found: BTreeSet<u32> = names(&place.join("msi_irqs")).iter().filter_map(|name| name.parse().ok()).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        if let Ok(line) = read(&place.join("irq"))
            && let Ok(number) = line.trim().parse()
        {
            return Ok(BTreeSet::from([number]));
        }
    }
    Err(format!("{} names no interrupt of its device", device.display()))
}

/// The device at the bottom of a stack of devices.
fn undermost(block: &Path) -> Result<PathBuf, String> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
    let mut device = resolve(block)?;
    for _ in 0..MAX_LAYERS {
        let slaves = device.join("slaves");
        match names(&slaves).as_slice() {
            [] => return Ok(device),
            [one] => device = resolve(&slaves.join(one))?,
            several => return Err(format!("{} lies on {} devices", device.display(), several.len())),
        }
    }
    Err(format!("{} lies on more than {MAX_LAYERS} layers of devices", block.display()))
}

/// The names in a directory; none where there is no such directory.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The CPU that took nearly all of these interrupts, in the text of /proc/interrupts.
fn busiest_cpu(text: &str, numbers: &BTreeSet<u32>) -> Result<usize, String> {
    let mut lines = text.lines();
    let cpus = lines.next().unwrap_or_default().split_whitespace();
    // The header names the CPUs that are online; their numbers may have gaps.
    let cpus: Vec<usize> = cpus.filter_map(|name| name.strip_prefix("CPU")?.parse().ok()).collect();
    let mut counts = vec![0u64; cpus.len()];
    for line in lines {
        let Some((number, rest)) = line.split_once(':') else { continue };
        if !number.trim().parse().is_ok_and(|number| numbers.contains(&number)) {
            continue;
        }
        let taken = rest.split_whitespace().map_while(|count| count.parse::<u64>().ok());
        counts.iter_mut().zip(taken).for_each(|(count, taken)| *count += taken);
    }
    let all: u64 = counts.iter().sum();
    let most = counts.iter().zip(&cpus).max();
    match most {
        Some((count, cpu)) if all > 0 && count * 100 >= all * NEARLY_ALL_PERCENT => Ok(*cpu),
        _ if all == 0 => Err("the disk has raised no interrupt yet".into()),
        _ => Err("the disk's interrupts are spread over several CPUs".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    const TEXT: &str = "           CPU0       CPU2\n 35:          0          1  IO-APIC   5-edge      virtio1-config\n \
        36:         10        990  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n \
        37:        500        500  PCI-MSIX-0000:00:03.0   1-edge      nvme0q1\nLOC:    5763730    5680549   Local timer\n";

    #[test]
    fn the_cpu_that_took_nearly_all_is_the_one() {
        assert_eq!(busiest_cpu(TEXT, &BTreeSet::from([35, 36])), Ok(2));
        assert!(busiest_cpu(TEXT, &BTreeSet::from([37])).unwrap_err().contains("spread"));
        assert!(busiest_cpu(TEXT, &BTreeSet::from([99])).unwrap_err().contains("no interrupt yet"));
        assert!(busiest_cpu("", &BTreeSet::from([36])).is_err());
    }

    /// A disk with a partition and a mapped device on it, as /sys shows them.
    #[test]
    fn layers_are_followed_down_to_the_device_with_interrupts() {
        let sys = tempfile::tempdir().unwrap();
        let root = sys.path().canonicalize().unwrap();
        let (bus, mapped) = (root.join("pci/02.0"), root.join("virtual/dm-0"));
        create_dir_all(bus.join("virtio1/block/vda/vda1")).unwrap();
        create_dir_all(bus.join("msi_irqs")).unwrap();
        create_dir_all(mapped.join("slaves")).unwrap();
        for number in ["35", "36"] {
            write(bus.join("msi_irqs").join(number), "msi").unwrap();
        }
        symlink(bus.join("virtio1/block/vda/vda1"), mapped.join("slaves/vda1")).unwrap();
        symlink(&mapped, root.join("253:0")).unwrap();
        assert_eq!(interrupts_of(&root.join("253:0")), Ok(BTreeSet::from([35, 36])));

        symlink(bus.join("virtio1/block/vda"), mapped.join("slaves/vda")).unwrap();
        assert!(interrupts_of(&root.join("253:0")).unwrap_err().contains("lies on 2 devices"));
        assert!(interrupts_of(&root.join("no")).is_err());

        let old = root.join("platform/ata");
        create_dir_all(old.join("block/sda")).unwrap();
        write(old.join("irq"), "14\n").unwrap();
        assert_eq!(interrupts_of(&old.join("block/sda")), Ok(BTreeSet::from([14])));
    }
}
