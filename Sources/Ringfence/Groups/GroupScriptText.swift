// SPDX-License-Identifier: Apache-2.0

/// The text of the group script, for the benchmark that weighs a bare beat, and makes members that nobody keeps alive.
package enum GroupScriptText {
    /// The files of `Scripts/group`, in the order of their names.
    package static var group: String {
        let parts = [
            PackageResources.group_01_call_lua,
            PackageResources.group_02_tell_lua,
            PackageResources.group_03_log_lua,
            PackageResources.group_04_role_lua,
            PackageResources.group_05_changes_lua,
            PackageResources.group_06_ranking_lua,
            PackageResources.group_07_role_end_lua,
            PackageResources.group_08_time_lua,
            PackageResources.group_09_versions_lua,
            PackageResources.group_10_dead_lua,
            PackageResources.group_11_claims_lua,
            PackageResources.group_12_handover_lua,
            PackageResources.group_13_orders_lua,
            PackageResources.group_14_verbs_lua,
            PackageResources.group_15_decision_lua,
            PackageResources.group_16_answer_lua,
        ]
        return String(decoding: parts.joined(), as: UTF8.self)
    }
}
