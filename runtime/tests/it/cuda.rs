//! The golden and identity tests on a GPU, where there is one.

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "skipped: no GPU (built without the feature 'cuda')")]
fn golden_and_identity_hold_on_a_gpu() {
    #[cfg(feature = "cuda")]
    on_a_gpu();
    #[cfg(not(feature = "cuda"))]
    panic!("build with --features cuda");
}

#[cfg(feature = "cuda")]
fn on_a_gpu() {
    use candle_core::DType;
    use mnemon_runtime::{DeviceChoice, LoadOptions};

    use crate::{
        common::{FOUR, load},
        golden::compare,
        identity::{all_layers, worst},
    };

    if let Err(why) = DeviceChoice::Cuda(0).open() {
        println!("skipped: no GPU ({why})");
        return;
    }
    // f32: sums are taken in another order, and products may be rounded to TF32's neighbourhood by the library.
    // bf16: 8 bits of mantissa through 2 layers with large random weights; logits are of the order of 10.
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::BF16, 0.8)] {
        let options = LoadOptions { device: DeviceChoice::Cuda(0), dtype: Some(dtype), ..LoadOptions::default() };
        for name in FOUR {
            let errors = compare(name, &options);
            println!("{name} on the GPU in {dtype:?}: {errors:?}");
            assert!(errors.iter().all(|&error| error < tolerance), "{name} {dtype:?}: {errors:?}");
            let error = worst(&load(name, &all_layers(16, &options)), 16, 16, 16);
            println!("{name} on the GPU in {dtype:?}, identity: {error:e}");
            assert!(error < tolerance, "{name} {dtype:?}: {error}");
        }
    }
}
