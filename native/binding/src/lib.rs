// SPDX-License-Identifier: BSD-2-Clause
//! What Python sees of the native data plane: `qubes_miragevpn.dataplane._native`.

mod engine;
mod key;
mod parts;
mod tun;

use pyo3::prelude::*;

/// The native data plane; see `_native.pyi`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("Refused", module.py().get_type::<key::Refused>())?;
    module.add_class::<engine::PyEngine>()?;
    module.add_class::<engine::PyRules>()?;
    module.add_class::<engine::PySlot>()?;
    module.add_class::<key::Key>()?;
    module.add_function(wrap_pyfunction!(parts::frame, module)?)?;
    module.add_function(wrap_pyfunction!(parts::unframe, module)?)?;
    module.add_function(wrap_pyfunction!(parts::classify, module)?)?;
    module.add_function(wrap_pyfunction!(tun::segment, module)?)?;
    module.add_function(wrap_pyfunction!(tun::coalesce, module)?)
}
