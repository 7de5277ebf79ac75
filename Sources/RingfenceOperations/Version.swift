// SPDX-License-Identifier: Apache-2.0

/// The version of the program, as `ringfence --version` says it.
package let ringfenceVersion = "0.1.0"
