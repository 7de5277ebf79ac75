// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

@main
struct Root: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ringfence")
}
