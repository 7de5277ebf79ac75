// SPDX-License-Identifier: Apache-2.0
//
// `ringfence group NAME` and `ringfence ring NAME` show what is named; an action stands before the name. A mistyped
// action is therefore read as a name by the command that shows, and what stands behind it is too much. It is refused
// here, in words that say what was meant.
import ArgumentParser
import RingfenceConsole
import RingfenceOperations

/// Refuses a word that is no command, which the parser would call an unexpected argument.
func refuseUnknownCommand(_ arguments: [String]) throws {
    var command: any ParsableCommand.Type = Main.self
    var path = "ringfence"
    for word in arguments.first == "help" ? arguments.dropFirst() : arguments[...] {
        let configuration = command.configuration
        let all = configuration.subcommands
        if all.isEmpty || word.hasPrefix("-") { return }
        if let next = all.first(where: { $0.configuration.commandName == word }) {
            command = next
            path += " " + word
            continue
        }
        // Of these it is a name.
        if command == GroupCommand.self || command == RingCommand.self { return }
        let names = all.filter { $0.configuration.shouldDisplay }.compactMap { $0.configuration.commandName }
        let hint = nearest(to: word, among: names).map { "; did you mean \($0)?" } ?? "."
        throw ValidationError("no command \(path) \(word)\(hint) The commands are: \(names.joined(separator: ", "))")
    }
}

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
    let hint = nearest(to: name, among: actions).map { "; did you mean \($0)?" } ?? "."
    throw ValidationError("no action \(name)\(hint) The actions are: \(actions.joined(separator: ", "))")
}
