// SPDX-License-Identifier: Apache-2.0
//
// `ringfence group NAME` and `ringfence ring NAME` show what is named; an action stands before the name. A mistyped
// action is therefore read as a name by the command that shows, and what stands behind it is too much. It is refused
// here, in words that say what was meant.
import ArgumentParser

/// Refuses what stands behind the name of a command that takes nothing else.
///
/// - Parameters:
///   - rest: what stands there.
///   - name: what was read as the name.
///   - parent: the command that has the actions.
func refuse(_ rest: [String], behind name: String, of parent: any ParsableCommand.Type) throws {
    guard let first = rest.first else { return }
    if first.hasPrefix("-") { throw ValidationError("Unknown option '\(first)'") }
    let command = "ringfence \(parent.configuration.commandName ?? "")"
    // (A key path to a metatype's static property crashes the compiler.)
    let actions = parent.configuration.subcommands.compactMap { $0.configuration.commandName }
    if actions.contains(first) {
        throw ValidationError("the action stands before the name: \(command) \(first) \(name)")
    }
    let nearest = actions.map { (action: $0, distance: distance(name, $0)) }.min { $0.distance < $1.distance }
    let hint = nearest.map { $0.distance <= 3 ? "; did you mean \($0.action)?" : "." } ?? "."
    throw ValidationError("no action \(name)\(hint) The actions are: \(actions.joined(separator: ", "))")
}

/// How many characters are to be added, removed or replaced to make `other` of `text`.
func distance(_ text: String, _ other: String) -> Int {
    var row = Array(0...other.count)
    for (line, character) in text.enumerated() {
        var diagonal = row[0]
        row[0] = line + 1
        for (column, its) in other.enumerated() {
            let above = row[column + 1]
            row[column + 1] = min(above + 1, row[column] + 1, diagonal + (character == its ? 0 : 1))
            diagonal = above
        }
    }
    return row[other.count]
}
