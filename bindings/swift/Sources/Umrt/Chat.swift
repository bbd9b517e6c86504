/// A conversation for a model's chat template.
public struct Chat: Hashable, Sendable, ExpressibleByArrayLiteral {
    /// An object with "messages" (each with "role" and "content") and optionally
    /// "tools", "add_generation_prompt" (default true) and whatever else the model's
    /// template understands.
    public let json: String

    /// A conversation with anything that templates understand.
    public init(json: String) {
        self.json = json
    }

    /// A conversation of messages alone.
    public init(_ messages: [Message]) {
        let list = messages.map { message in
            "{\"role\":\(quoted(message.role)),\"content\":\(quoted(message.content))}"
        }
        json = "{\"messages\":[\(list.joined(separator: ","))]}"
    }

    public init(arrayLiteral messages: Message...) {
        self.init(messages)
    }

    /// What somebody said.
    public struct Message: Hashable, Sendable {
        /// "system", "user", "assistant", or another that the template knows.
        public var role: String
        public var content: String

        public init(role: String, content: String) {
            self.role = role
            self.content = content
        }

        public static func system(_ content: String) -> Message {
            Message(role: "system", content: content)
        }

        public static func user(_ content: String) -> Message {
            Message(role: "user", content: content)
        }

        public static func assistant(_ content: String) -> Message {
            Message(role: "assistant", content: content)
        }
    }
}

/// A string of JSON.
private func quoted(_ text: String) -> String {
    var json = "\""
    for character in text.unicodeScalars {
        switch character {
        case "\"", "\\":
            json += "\\\(character)"
        case "\u{0}"..<" ":
            let digits = String(character.value, radix: 16)
            json += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default:
            json.unicodeScalars.append(character)
        }
    }
    return json + "\""
}
