// SPDX-License-Identifier: Apache-2.0

/// The text of the group script, for the benchmark that weighs a bare beat, and makes members that nobody keeps alive.
package enum GroupScriptText {
    /// `Scripts/group.lua`.
    package static var group: String { String(decoding: PackageResources.group_lua, as: UTF8.self) }
}
