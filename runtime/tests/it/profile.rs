//! Files that say how a pretrained model uses memory.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use mnemon_memory::{EntryPolicy, Fingerprint, KeyHead, KvGeometry};
use mnemon_runtime::{
    Error, Extent, Extents, Measured, Model, ModelSource, PROFILE_VERSION, Profile, QueryHead, RecallMode, SearchHead,
    Trial,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{cpu, folder};

fn model(name: &str) -> Model {
    let folder = folder(name);
    Model::load(&ModelSource::Directory(folder.path().into()), &cpu()).unwrap()
}

/// A profile with nothing at its default.
fn profile(model: &Model) -> Profile {
    let head = |layer: u32, head: u32| SearchHead {
        query: QueryHead { layer, head },
        weight: 0.25 + head as f32,
        mean: (0..model.config().head_dim).map(|at| 0.1 * at as f32 - 1.5).collect(),
        reciprocal_rank: 0.75,
    };
    Profile {
        version: PROFILE_VERSION,
        model: model.base_fingerprint(),
        model_name: "a/model \"of\" tests".into(),
        seed: u64::MAX,
        kv_layers: vec![1],
        search: vec![head(1, 3), head(0, 1), head(1, 2)],
        attention_weight: 0.9,
        lexical_weight: 0.1,
        passages: 3,
        neighbours: 2,
        mode: RecallMode::Reread,
        mode_of_several: None,
        extents: Extents { attend: Extent::Chunk, reread: Extent::Sentence },
        measured: Measured {
            tokens: 5000,
            questions: 40,
            found_first: 0.5,
            found: 0.9,
            answered_without: 0.125,
            trials: vec![Trial {
                mode: RecallMode::Attend,
                facts: 1,
                passages: 1,
                extent: Extent::Sentence,
                layers: [0, 1],
                answered: 0.5,
            }],
        },
    }
}

/// What is wrong with a profile, and how to make it so.
type Change = (&'static str, fn(&mut Profile));

fn file() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("made").join("p.json");
    (folder, path)
}

#[test]
fn what_is_written_is_read() {
    let (model, (_folder, path)) = (model("llama"), file());
    let profile = profile(&model);
    profile.write(&path).unwrap();
    assert_eq!(model.read_profile(&path).unwrap(), profile);
    // Over an older one; nothing else is left in the folder.
    let newer = Profile { passages: 1, ..profile };
    newer.write(&path).unwrap();
    assert_eq!(model.read_profile(&path).unwrap(), newer);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert!(fs::read_to_string(&path).unwrap().ends_with("}\n"));
}

#[test]
fn profiles_of_before_show_chunks() {
    let (model, (_folder, path)) = (model("llama"), file());
    let profile = profile(&model);
    let mut value = serde_json::to_value(&profile).unwrap();
    value.as_object_mut().unwrap().remove("extents").unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, value.to_string()).unwrap();
    assert_eq!(model.read_profile(&path).unwrap(), Profile { extents: Extents::default(), ..profile });
}

#[test]
fn memories_keep_values_where_any_number_of_passages_is_attended_to() {
    let (a, r) = (RecallMode::Attend, RecallMode::Reread);
    for (mode, mode_of_several, memories) in
        [(a, None, a), (r, None, r), (a, Some(r), a), (r, Some(a), a), (r, Some(r), r)]
    {
        let profile = Profile { mode, mode_of_several, ..profile(&model("llama")) };
        assert_eq!(profile.mode_of_memories(), memories, "{mode:?} {mode_of_several:?}");
    }
}

#[test]
fn other_models_versions_and_files_are_told_apart() {
    let (model, (_folder, path)) = (model("llama"), file());
    let message = |error: Error| error.to_string();
    assert!(matches!(model.read_profile(&path).unwrap_err(), Error::Read { .. }));
    let profile = profile(&model);
    profile.write(&path).unwrap();
    let other = self::model("qwen3");
    let told = other.read_profile(&path).unwrap_err();
    assert!(matches!(told, Error::Profile { .. }));
    let told = message(told);
    for part in ["a/model", &model.base_fingerprint().to_string(), &other.base_fingerprint().to_string(), "make one"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // A newer one may say things that this program does not know: the version is what is told.
    for (version, shown) in
        [(json!(2), "version 2"), (json!(0), "version 0"), (json!("1"), "none"), (Value::Null, "none")]
    {
        let mut value = serde_json::to_value(&profile).unwrap();
        value["version"] = version;
        value["mode"] = json!("a new one");
        fs::write(&path, value.to_string()).unwrap();
        let told = message(model.read_profile(&path).unwrap_err());
        assert!(told.contains(shown) && told.contains("p.json") && told.contains("reads version 1"), "{told}");
    }
    let text = serde_json::to_string(&profile).unwrap();
    for damaged in ["", "{", "\u{0}", &text[..text.len() / 2], &text.replace("\"search\"", "\"serach\"")] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(model.read_profile(&path).unwrap_err(), Error::Damaged { .. }), "{damaged}");
    }
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(model.read_profile(&path).is_err());
    // Not even opened.
    fs::File::create(&path).unwrap().set_len(17 << 20).unwrap();
    assert!(matches!(model.read_profile(&path).unwrap_err(), Error::Damaged { .. }));
    assert!(model.read_profile(path.parent().unwrap()).is_err(), "a folder");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let model = model("llama");
    let right = profile(&model);
    model.check_profile(&right).unwrap();
    let changes: [Change; 21] = [
        ("layers that are not there", |p| p.kv_layers = vec![0, 2]),
        ("layers twice", |p| p.kv_layers = vec![1, 1]),
        ("layers in another order", |p| p.kv_layers = vec![1, 0]),
        ("no head", |p| p.search.clear()),
        ("too many heads", |p| p.search = vec![p.search[0].clone(); 65]),
        ("a layer of a head", |p| p.search[0].query.layer = 2),
        ("a head", |p| p.search[0].query.head = 4),
        ("a head far off", |p| p.search[0].query.head = u32::MAX),
        ("a mean too short", |p| p.search[1].mean.truncate(3)),
        ("a mean that is none", |p| p.search[1].mean[0] = f32::NAN),
        ("an endless mean", |p| p.search[1].mean[0] = f32::INFINITY),
        ("a weight of zero", |p| p.search[0].weight = 0.0),
        ("a weight below", |p| p.search[0].weight = -1.0),
        ("a weight that is none", |p| p.search[0].weight = f32::NAN),
        ("nothing counts", |p| (p.attention_weight, p.lexical_weight) = (0.0, 0.0)),
        ("above one", |p| p.attention_weight = 1.5),
        ("below zero", |p| p.lexical_weight = -0.1),
        ("no number", |p| p.lexical_weight = f32::NAN),
        ("no passage", |p| p.passages = 0),
        ("too many passages", |p| p.passages = 65),
        ("too many neighbours", |p| p.neighbours = 17),
    ];
    for (what, change) in changes {
        let mut wrong = right.clone();
        change(&mut wrong);
        assert!(matches!(model.check_profile(&wrong), Err(Error::Profile { .. })), "{what}");
        // And so they are when given to a model.
        assert!(self::model("llama").set_profile(wrong).is_err(), "{what}");
    }
    model.check_profile(&Profile { kv_layers: Vec::new(), ..right }).unwrap();
}

#[test]
fn changed_files_never_panic() {
    use rand::{Rng, SeedableRng};
    let (model, (_folder, path)) = (model("llama"), file());
    let profile = profile(&model);
    profile.write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for seed in 0..300 {
        let mut bytes = whole.clone();
        crate::mutations::mutate(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed), &mut bytes);
        if rand_chacha::ChaCha8Rng::seed_from_u64(seed).random_range(0..4) == 0 {
            bytes.truncate(bytes.len() * 2 / 3);
        }
        fs::write(&path, &bytes).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Ok(read) = model.read_profile(&path) {
                // What is read can be used.
                let mut fresh = self::model("llama");
                let _ = fresh.set_profile(read);
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}: {}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_profile_decides_what_memories_keep() {
    let mut model = model("llama");
    let before = (model.fingerprint(), model.base_fingerprint(), model.geometry().clone());
    assert!(model.profile().is_none());
    assert_eq!(model.geometry_for(RecallMode::Reread), before.2, "without a profile there is one shape");
    model.set_profile(profile(&model)).unwrap();
    let geometry = model.geometry();
    assert_eq!(geometry.layers, [1]);
    assert_eq!(geometry.key_heads, [KeyHead { layer: 0, head: 0 }, KeyHead { layer: 1, head: 1 }]);
    assert_eq!(geometry.entry_policy, EntryPolicy::PerToken);
    assert_ne!(model.fingerprint(), before.0);
    assert_eq!(model.base_fingerprint(), before.1);
    assert_eq!(model.fingerprint_for(geometry), model.fingerprint());
    // Memories for reading again have one more shape; those of other profiles are read as well.
    let bare = model.geometry_for(RecallMode::Reread);
    assert_eq!(bare, KvGeometry { layers: Vec::new(), ..geometry.clone() });
    assert_ne!(model.fingerprint_for(&bare), model.fingerprint());
    assert_eq!(model.fingerprint_for(&before.2), before.0, "those made before there was a profile");
    let mut second = self::model("llama");
    let other = Profile { kv_layers: vec![0, 1], ..profile(&second) };
    second.set_profile(other).unwrap();
    assert_eq!(model.fingerprint_for(second.geometry()), second.fingerprint());
    let mut stranger = self::model("qwen3");
    stranger.set_profile(profile(&stranger)).unwrap();
    assert_ne!(model.fingerprint_for(stranger.geometry()), stranger.fingerprint());
}

#[test]
fn models_that_were_trained_with_memory_need_none() {
    let mut model = model("memory_joint");
    let before = model.fingerprint();
    let error = model.set_profile(profile(&model)).unwrap_err();
    assert!(matches!(&error, Error::Profile { why } if why.contains("trained with memory")), "{error}");
    assert!(model.profile().is_none());
    assert_eq!(model.fingerprint(), before);
    // Whatever the shape of a memory: it has to be this model's own.
    let other = KvGeometry { chunk_tokens: 7, ..model.geometry().clone() };
    assert_eq!(model.fingerprint_for(&other), before);
    assert_ne!(before, Fingerprint([0; 32]));
}
