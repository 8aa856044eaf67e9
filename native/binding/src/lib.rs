// SPDX-License-Identifier: BSD-2-Clause
//! What Python sees of the native data plane: `qubes_miragevpn.dataplane._native`.

use pyo3::prelude::*;

/// The native data plane; see `_native.pyi`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))
}
