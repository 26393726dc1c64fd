//! Engine on ONNX Runtime: a setup -> a session of the QDQ network on one execution provider; int8 tensors in and out. The only file that knows
//! ort, and it runs in the worker process alone (`npu/worker.rs`): nothing here is loaded into the service.
//!
//! **Telemetry.** The vendor's Linux libraries from 1.29 on carry a telemetry client that keeps a queue on disk and looks up a collector's
//! address as soon as they are loaded (measured: none in 1.28.0, some in 1.29.0, 1.30.0 and 1.32.0). `ORT_DISABLE_TELEMETRY=1` stops both. The
//! service sets it for every worker; a worker without it refuses a library that is not known to be older, before loading it.

use std::fs::File;
use std::io::{self, Read};

use ort::device::Device;
use ort::environment::Environment;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::memory::DeviceType;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

use crate::domain::Quantisation;

use super::npu::protocol::{Ready, Setup, Shapes};
use super::npu::worker::Network;

/// First minor version of ONNX Runtime 1.x whose libraries carry telemetry.
const TELEMETRY_SINCE_MINOR: u32 = 29;
/// What the environment must say before such a library is loaded.
const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
/// What providers call themselves ends so; people leave it out.
const PROVIDER_SUFFIX: &str = "ExecutionProvider";
/// No node may fall back to the runtime's own CPU provider unseen: what the NPU does not take is better run by our own engine.
const NO_CPU_FALLBACK: &str = "session.disable_cpu_ep_fallback";

/// Loads the libraries and the network that `setup` names.
///
/// # Errors
/// What went wrong, in words.
pub fn open(setup: Setup) -> Result<(Ready, Network), String> {
    let version = version_of(&setup.runtime_library).map_err(|e| format!("{}: {e}", setup.runtime_library))?;
    check_telemetry(version.as_deref(), std::env::var(TELEMETRY_VARIABLE).is_ok_and(|value| value == "1"))?;
    let environment = ort::init_from(&setup.runtime_library)
        .map_err(|e| e.to_string())?
        .with_name("scanside")
        .with_telemetry(false)
        .build()
        .map_err(words)?;
    let provider = short(&setup.provider).to_owned();
    if let Some(library) = &setup.provider_library {
        environment.register_ep_library(&provider, library).map_err(|e| format!("{library}: {}", words(e)))?;
    }
    let mut builder = Session::builder(&environment).map_err(words)?;
    builder = with_session_options(builder, &setup, &provider)?;
    let device;
    (builder, device) = with_provider(builder, &environment, &setup, &provider)?;
    let mut session = builder.commit_from_memory(&setup.network).map_err(words)?;
    let ready = Ready { runtime: version.unwrap_or_default(), provider, device };
    let shapes = setup.shapes;
    check_sides(&session)?;
    // The environment must outlive the session.
    let network = move |input: &[i8]| run(&mut session, &environment, &shapes, input);
    Ok((ready, Box::new(network)))
}

/// The runtime's own CPU provider must not fuse the network into its integer convolutions: on x86 without VNNI sums of two 8-bit products saturate
/// there. Measured with 1.28.0 on AVX2: `tests/data/tiny-model` up to 60 int8 steps away fused, and not one unfused; the real model takes twice
/// the time fused. (`session.x64quantprecision` would cure the saturation; 1.28.0 fails to load the real model with it.)
const NO_FUSION: &str = "session.disable_quant_qdq";

fn words<R>(error: ort::Error<R>) -> String {
    error.to_string()
}

/// `QNN` for `QNNExecutionProvider`.
fn short(provider: &str) -> &str {
    provider.strip_suffix(PROVIDER_SUFFIX).unwrap_or(provider)
}

/// Session options are those that begin with `session.`; the rest is the provider's.
fn is_session_option(key: &str) -> bool {
    key.starts_with("session.")
}

fn with_session_options(mut builder: SessionBuilder, setup: &Setup, provider: &str) -> Result<SessionBuilder, String> {
    let threads = usize::try_from(setup.threads).unwrap_or(1);
    builder = builder.with_intra_threads(threads).map_err(words)?;
    let key = if provider.eq_ignore_ascii_case("CPU") { NO_FUSION } else { NO_CPU_FALLBACK };
    builder = builder.with_config_entry(key, "1").map_err(words)?;
    // The site's options come last and win.
    for (key, value) in setup.options.iter().filter(|(key, _)| is_session_option(key)) {
        builder = builder.with_config_entry(key, value).map_err(words)?;
    }
    Ok(builder)
}

/// Adds the provider: a device of that name that the runtime or a plug-in offers, else one that the runtime was built with.
fn with_provider(
    builder: SessionBuilder,
    environment: &Environment,
    setup: &Setup,
    provider: &str,
) -> Result<(SessionBuilder, String), String> {
    let is_wanted = |device: &Device<'_>| device.ep().is_ok_and(|name| short(name).eq_ignore_ascii_case(provider));
    // The best kind of device that the provider offers here: it may list the processor, too.
    let rank = |kind| [DeviceType::NPU, DeviceType::FPGA, DeviceType::GPU, DeviceType::CPU].iter().position(|k| *k == kind);
    let best = environment.devices().filter(is_wanted).min_by_key(|device| rank(device.hardware_device().ty()));
    if let Some(device) = best {
        let name = device.ep().map_err(words)?.to_owned();
        let hardware = device.hardware_device();
        let described = format!("{:?} {}", hardware.ty(), hardware.vendor().unwrap_or_default());
        let own = setup.options.iter().filter(|(key, _)| !is_session_option(key));
        let options: Vec<(String, String)> = own.map(|(key, value)| (format!("{name}.{key}"), value.clone())).collect();
        let builder = builder.with_devices([device], Some(&options)).map_err(words)?;
        return Ok((builder, described));
    }
    if setup.provider_library.is_some() {
        let offered: Vec<_> = environment.devices().filter_map(|device| device.ep().ok().map(str::to_owned)).collect();
        return Err(format!("the plug-in offers no device of {provider} here; devices there are of {}", offered.join(", ")));
    }
    let dispatch = built_in(provider, &setup.options)?.error_on_failure();
    let builder = builder.with_execution_providers([dispatch]).map_err(words)?;
    Ok((builder, "built in".to_owned()))
}

/// Providers that a vendor's build of the runtime may hold.
fn built_in(provider: &str, options: &[(String, String)]) -> Result<ExecutionProviderDispatch, String> {
    fn with<E: ArbitrarilyConfigurableExecutionProvider>(mut provider: E, options: &[(String, String)]) -> E {
        for (key, value) in options.iter().filter(|(key, _)| !is_session_option(key)) {
            provider = provider.with_arbitrary_config(key, value);
        }
        provider
    }
    let takes_options = ["qnn", "openvino", "xnnpack"];
    let name = provider.to_ascii_lowercase();
    if !takes_options.contains(&name.as_str()) && options.iter().any(|(key, _)| !is_session_option(key)) {
        return Err(format!("provider {provider} takes no options"));
    }
    match name.as_str() {
        "qnn" => Ok(with(ep::QNN::default(), options).build()),
        "openvino" => Ok(with(ep::OpenVINO::default(), options).build()),
        "xnnpack" => Ok(with(ep::XNNPACK::default(), options).build()),
        "vsinpu" => Ok(ep::VSINPU.build()),
        "acl" => Ok(ep::ACL::default().build()),
        "rknpu" => Ok(ep::RKNPU::default().build()),
        _ => Err(format!(
            "no provider {provider} here: CPU, QNN, VSINPU, RKNPU, OpenVINO, XNNPACK, ACL, or the one of a plug-in (provider_library)"
        )),
    }
}

fn check_sides(session: &Session) -> Result<(), String> {
    let (n_in, n_out) = (session.inputs().len(), session.outputs().len());
    if (n_in, n_out) == (1, 1) {
        Ok(())
    } else {
        Err(format!("the network has {n_in} inputs and {n_out} outputs instead of one"))
    }
}

/// int8 -> float -> the network -> float -> int8. Both conversions are exact where the network's first and last nodes are the same ones.
fn run(session: &mut Session, _environment: &Environment, shapes: &Shapes, input: &[i8]) -> Result<Vec<i8>, String> {
    let values: Vec<f32> = input.iter().map(|q| shapes.input.to_real(*q)).collect();
    let [k, j, i] = shapes.shape_kji.map(i64::from);
    let tensor = TensorRef::from_array_view(([1, i64::from(shapes.n_in), k, j, i], values.as_slice())).map_err(words)?;
    let outputs = session.run(ort::inputs![tensor]).map_err(words)?;
    let output = outputs.values().next().ok_or("the network gave no output")?;
    let (shape, values) = output.try_extract_tensor::<f32>().map_err(words)?;
    if **shape != [1, i64::from(shapes.n_out), k, j, i] {
        return Err(format!("the network's output has shape {shape:?}"));
    }
    quantised(values, shapes.output).ok_or_else(|| "the provider gave values that are no numbers".to_owned())
}

fn quantised(values: &[f32], quantisation: Quantisation) -> Option<Vec<i8>> {
    values.iter().map(|value| (!value.is_nan()).then(|| quantisation.to_int8(*value))).collect()
}

/// Refuses a library that may carry telemetry unless the environment has switched that off.
fn check_telemetry(version: Option<&str>, is_disabled: bool) -> Result<(), String> {
    let minor = version.and_then(|version| version.strip_prefix("1.")?.split('.').next()?.parse::<u32>().ok());
    if is_disabled || minor.is_some_and(|minor| minor < TELEMETRY_SINCE_MINOR) {
        return Ok(());
    }
    Err(format!(
        "ONNX Runtime {} may carry its vendor's telemetry: set {TELEMETRY_VARIABLE}=1 before it is loaded, or use 1.28",
        version.unwrap_or("of an unknown version")
    ))
}

/// The version that a runtime library exports its symbols under (`VERS_1.28.0`), read from the file without loading it.
fn version_of(path: &str) -> io::Result<Option<String>> {
    const MARK: &[u8] = b"\0VERS_";
    const VERSION_BYTES_MAX: usize = 16;
    let mut file = File::open(path)?;
    let (mut window, mut buffer) = (Vec::<u8>::new(), vec![0_u8; 1 << 16]);
    loop {
        let n = file.read(&mut buffer)?;
        window.extend(buffer.iter().take(n));
        let found = window.windows(MARK.len()).position(|bytes| bytes == MARK);
        if let Some(rest) = found.and_then(|at| window.get(at + MARK.len()..))
            && (rest.len() >= VERSION_BYTES_MAX || n == 0)
        {
            let version: String = rest
                .iter()
                .take(VERSION_BYTES_MAX)
                .map(|b| char::from(*b))
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            return Ok(Some(version).filter(|version| !version.is_empty()));
        }
        if n == 0 {
            return Ok(None);
        }
        if found.is_none() {
            window.drain(..window.len().saturating_sub(MARK.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_may_carry_telemetry_is_refused_unless_it_is_switched_off() {
        for (version, disabled, fine) in [
            (Some("1.28.0"), false, true),
            (Some("1.24.4"), false, true),
            (Some("1.29.0"), false, false),
            (Some("1.32.0"), true, true),
            (Some("2.0.0"), false, false),
            (None, false, false),
            (None, true, true),
        ] {
            assert_eq!(check_telemetry(version, disabled).is_ok(), fine, "{version:?} {disabled}");
        }
    }

    #[test]
    fn the_version_is_read_from_the_file_without_loading_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let version = |bytes: &[u8]| {
            let path = dir.path().join("library.so");
            std::fs::write(&path, bytes).expect("written");
            version_of(&path.to_string_lossy()).expect("readable")
        };
        let mut file = vec![7_u8; 65_530];
        file.extend(b"\0VERS_1.28.0\0more");
        assert_eq!(version(&file).as_deref(), Some("1.28.0"), "across two reads");
        assert_eq!(version(b"\0VERS_1.30.1").as_deref(), Some("1.30.1"), "at the end");
        assert_eq!(version(&[b'x'; 100_000]), None);
        assert!(version_of("/no/such/library.so").is_err());
    }

    #[test]
    fn floats_become_the_integers_that_the_last_node_had() {
        let quantisation = Quantisation { scale: 0.0625, zero_point: 3 };
        let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
        let floats: Vec<f32> = all.iter().map(|q| quantisation.to_real(*q)).collect();
        assert_eq!(quantised(&floats, quantisation), Some(all));
        assert_eq!(quantised(&[f32::NAN], quantisation), None);
        assert_eq!(quantised(&[1e9, -1e9], quantisation), Some(vec![127, -128]));
    }

    #[test]
    fn an_unknown_provider_is_refused_with_the_choices() {
        let refused = |name: &str, options: &[(String, String)]| built_in(name, options).err().unwrap_or_default();
        assert!(refused("Quark", &[]).contains("QNN, VSINPU"));
        assert!(refused("VSINPU", &[("a".to_owned(), "b".to_owned())]).contains("takes no options"));
        assert!(built_in("VSINPU", &[("session.x".to_owned(), "b".to_owned())]).is_ok());
        assert_eq!(short("QNNExecutionProvider"), "QNN");
    }
}
