//! A disk in memory that does what a disk may do: for simulations. All it decides, it decides by a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Batch, BlobInfo, Record, Storage, check_blob_name};
use crate::error::{Error, Result};
use crate::sync::lock;

/// How the disk behaves from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// One write of so many fails, in one of several ways; none when 0.
    pub fails_one_in: u64,
    /// After so many writes the machine stops: this write takes effect in part, or not at all, and nothing works any
    /// more until [`SimulatedStorage::restart`].
    pub stops_after: Option<u64>,
}

/// Records and blobs as [`Storage`] promises them, and no better: batches that were not flushed are lost from the last one
/// backwards, a blob whose writing was cut short is there in part, wholly, or not at all, and deleted blobs come back.
#[derive(Clone)]
pub struct SimulatedStorage {
    disk: Arc<Mutex<Disk>>,
    /// Handles of an earlier life have stopped working.
    life: u64,
}

struct Disk {
    life: u64,
    random: u64,
    trouble: Trouble,
    writes: u64,
    stopped: bool,
    /// What survives.
    flushed: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What readers see.
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    unflushed: Vec<Batch>,
    blobs: BTreeMap<String, Vec<u8>>,
    /// Deleted, but maybe not for good.
    ghosts: BTreeMap<String, Vec<u8>>,
    aside: usize,
}

/// What becomes of one write.
enum Fate {
    Done,
    Failed(Error),
    /// Fails, but took effect: the answer was lost.
    DoneUnheard(Error),
    /// Fails, and left something behind.
    Part(Error),
}

impl Disk {
    /// splitmix64 (Steele, Lea and Flood, 2014).
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn fate(&mut self) -> Fate {
        let number = self.writes;
        self.writes += 1;
        if self.trouble.stops_after.is_some_and(|stop| number >= stop) {
            self.stopped = true;
            return match self.random(3) {
                0 => Fate::DoneUnheard(refused()),
                1 => Fate::Part(refused()),
                _ => Fate::Failed(refused()),
            };
        }
        if self.trouble.fails_one_in == 0 || self.random(self.trouble.fails_one_in) != 0 {
            return Fate::Done;
        }
        match self.random(4) {
            0 => Fate::Failed(Error::NoSpace { what: "the simulated disk".into() }),
            1 => Fate::Part(refused()),
            2 => Fate::DoneUnheard(refused()),
            _ => Fate::Failed(refused()),
        }
    }

    /// Makes the first `count` batches survive.
    fn settle(&mut self, count: usize) {
        for batch in self.unflushed.drain(..count) {
            apply(&mut self.flushed, &batch);
        }
    }
}

fn apply(records: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, value) in batch.changes() {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
}

fn refused() -> Error {
    Error::Io { what: "use the simulated disk".into(), source: std::io::Error::other("injected fault") }
}

impl SimulatedStorage {
    /// An empty disk without trouble.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            life: 0,
            random: seed,
            trouble: Trouble::default(),
            writes: 0,
            stopped: false,
            flushed: BTreeMap::new(),
            records: BTreeMap::new(),
            unflushed: Vec::new(),
            blobs: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            aside: 0,
        };
        Self { disk: Arc::new(Mutex::new(disk)), life: 0 }
    }

    /// Sets what goes wrong from now on; the count of writes restarts.
    pub fn set_trouble(&self, trouble: Trouble) {
        let mut disk = lock(&self.disk);
        disk.trouble = trouble;
        disk.writes = 0;
    }

    /// Whether the machine stopped by itself.
    pub fn stopped(&self) -> bool {
        lock(&self.disk).stopped
    }

    /// Power goes and comes back, without trouble: handles so far stop working, what need not survive may be gone. Returns
    /// the disk as the next process finds it.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut disk = lock(&self.disk);
        let kept = disk.unflushed.len() as u64 + 1;
        let kept = disk.random(kept) as usize;
        disk.settle(kept);
        disk.unflushed.clear();
        disk.records = disk.flushed.clone();
        for (name, bytes) in std::mem::take(&mut disk.ghosts) {
            if disk.random(4) == 0 {
                disk.blobs.entry(name).or_insert(bytes);
            }
        }
        disk.life += 1;
        (disk.trouble, disk.stopped) = (Trouble::default(), false);
        Self { disk: Arc::clone(&self.disk), life: disk.life }
    }

    /// Nothing works after the end of this life.
    fn on_disk<T>(&self, work: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        let mut disk = lock(&self.disk);
        if disk.stopped || disk.life != self.life {
            return Err(refused());
        }
        work(&mut disk)
    }
}

impl Storage for SimulatedStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.on_disk(|disk| Ok(disk.records.get(key).cloned()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        self.on_disk(|disk| {
            let records = disk
                .records
                .iter()
                .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after));
            Ok(records.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        })
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.on_disk(|disk| {
            let fate = disk.fate();
            // After an error nothing was applied; only the end of the machine leaves that open.
            let done = matches!(fate, Fate::Done) || (disk.stopped && matches!(fate, Fate::DoneUnheard(_)));
            if done {
                apply(&mut disk.records, batch);
                disk.unflushed.push(batch.clone());
            }
            match fate {
                Fate::Done => Ok(()),
                Fate::Failed(error) | Fate::DoneUnheard(error) | Fate::Part(error) => Err(error),
            }
        })
    }

    fn flush(&self) -> Result<()> {
        self.on_disk(|disk| {
            let all = disk.unflushed.len();
            match disk.fate() {
                Fate::Done => {
                    disk.settle(all);
                    Ok(())
                }
                Fate::DoneUnheard(error) => {
                    disk.settle(all);
                    Err(error)
                }
                Fate::Part(error) => {
                    let some = disk.random(all as u64 + 1) as usize;
                    disk.settle(some);
                    Err(error)
                }
                Fate::Failed(error) => Err(error),
            }
        })
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        check_blob_name(name)?;
        self.on_disk(|disk| {
            let mut bytes = parts.concat();
            match disk.fate() {
                Fate::Done => {
                    disk.blobs.insert(name.to_owned(), bytes);
                    Ok(())
                }
                Fate::DoneUnheard(error) => {
                    disk.blobs.insert(name.to_owned(), bytes);
                    Err(error)
                }
                Fate::Part(error) => {
                    let len = bytes.len() as u64 + 1;
                    bytes.truncate(disk.random(len) as usize);
                    disk.blobs.insert(name.to_owned(), bytes);
                    Err(error)
                }
                Fate::Failed(error) => Err(error),
            }
        })
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.on_disk(|disk| {
            let damaged = |why: &str| Error::Damaged { what: format!("blob {name}"), why: why.into() };
            let blob = disk.blobs.get(name).ok_or_else(|| damaged("it is missing"))?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = blob.get(start..start.saturating_add(len)).ok_or_else(|| damaged("it is too short"))?;
            Ok(bytes.to_vec())
        })
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        self.on_disk(|disk| {
            let fate = disk.fate();
            if matches!(fate, Fate::Done | Fate::DoneUnheard(_))
                && let Some(bytes) = disk.blobs.remove(name)
            {
                disk.ghosts.insert(name.to_owned(), bytes);
            }
            match fate {
                Fate::Done => Ok(()),
                Fate::Failed(error) | Fate::DoneUnheard(error) | Fate::Part(error) => Err(error),
            }
        })
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        self.on_disk(|disk| {
            let info = |(name, bytes): (&String, &Vec<u8>)| BlobInfo { name: name.clone(), bytes: bytes.len() as u64 };
            Ok(disk.blobs.iter().map(info).collect())
        })
    }

    fn set_aside(&self, _name: &str, _bytes: &[u8]) -> Result<()> {
        self.on_disk(|disk| {
            disk.aside += 1;
            Ok(())
        })
    }

    fn location(&self) -> String {
        "a simulated disk".into()
    }
}
