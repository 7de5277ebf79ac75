// SPDX-License-Identifier: Apache-2.0

/// The text of the lock script, for the benchmark that has C run the very same one.
package enum LockScriptText {
    /// `Scripts/lock.lua`.
    package static var lock: String { String(decoding: PackageResources.lock_lua, as: UTF8.self) }
}
