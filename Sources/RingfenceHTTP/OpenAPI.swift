// SPDX-License-Identifier: Apache-2.0
//
// The OpenAPI 3.1 document, made from the table of routes: what is served is what is described. Only the schemas are
// written out, once each.
import HTTPTypes
import RingfenceOperations

enum OpenAPI {
    /// What any request may meet, whatever its route.
    static let commonProblems: [Problem.Code] = [
        .invalidArgument, .badRequest, .timeout, .bodyTooLarge, .headersTooLarge, .hostRefused, .full,
    ]
    /// What a request that reads or changes locks may meet as well.
    static let redisProblems: [Problem.Code] = [.internal, .overloaded, .unavailable, .refused, .draining]

    static func document(of routes: [Route]) -> JSONWriter {
        var json = JSONWriter(capacity: 16_384)
        json.object { json in
            json.field("openapi", "3.1.0")
            json.key("info")
            json.raw(information)
            json.key("servers")
            json.raw(#"[{"url":"/"}]"#)
            json.key("paths")
            json.object { json in
                var paths: [String] = []
                for route in routes where !paths.contains(route.path) { paths.append(route.path) }
                for path in paths {
                    json.key(path)
                    json.object { json in
                        for route in routes where route.path == path { describe(route, &json) }
                    }
                }
            }
            json.key("components")
            json.object { json in
                json.key("securitySchemes")
                json.raw(#"{"token":{"type":"http","scheme":"bearer"}}"#)
                json.key("schemas")
                json.raw(schemas)
            }
        }
        return json
    }

    private static func describe(_ route: Route, _ json: inout JSONWriter) {
        json.key(route.method.rawValue.lowercased())
        json.object { json in
            json.field("operationId", route.operation)
            json.field("summary", route.summary)
            json.key("security")
            // An empty requirement beside the token: without a token file the service asks for none.
            json.raw(route.isOpen ? "[]" : #"[{"token":[]},{}]"#)
            json.key("parameters")
            json.array(parameters(of: route)) { json, parameter in describe(parameter, &json) }
            if let request = route.request {
                json.key("requestBody")
                json.object { json in
                    json.field("required", !route.requestIsOptional)
                    content("application/json", request.name, &json)
                }
            }
            json.key("responses")
            json.object { json in answers(of: route, &json) }
        }
    }

    private struct Parameter {
        var name: String
        var isInPath: Bool
        var schema: String
        var help: String
    }

    private static func parameters(of route: Route) -> [Parameter] {
        let name = Parameter(
            name: "name", isInPath: true, schema: ##"{"$ref":"#/components/schemas/Name"}"##,
            help: (route.path.hasPrefix("/v1/groups") ? "The group's" : "The lock's")
                + " name, percent-encoded: a slash in it is %2F.")
        let member = Parameter(
            name: "member", isInPath: true, schema: ##"{"$ref":"#/components/schemas/Name"}"##,
            help: "The member's id, percent-encoded: a slash in it is %2F.")
        let call = Parameter(
            name: "call", isInPath: true, schema: #"{"type":"string","pattern":"^[0-9a-f]{16}$"}"#,
            help: "The id of the call, from the answer to the pick.")
        let query = route.query.map { Parameter(name: $0.name, isInPath: false, schema: $0.schema, help: $0.help) }
        return route.parameters.map { $0 == "member" ? member : $0 == "call" ? call : name } + query
    }

    private static func describe(_ parameter: Parameter, _ json: inout JSONWriter) {
        json.object { json in
            json.field("name", parameter.name)
            json.field("in", parameter.isInPath ? "path" : "query")
            json.field("required", parameter.isInPath)
            json.field("description", parameter.help)
            json.key("schema")
            json.raw(parameter.schema)
        }
    }

    private static func answers(of route: Route, _ json: inout JSONWriter) {
        json.key("200")
        json.object { json in
            json.field("description", "Done")
            json.key("content")
            json.object { json in
                media(route.response == nil ? "text/plain" : "application/json", route.response ?? "Text", &json)
                if route.streams { media("text/event-stream", "Text", &json) }
                if route.isAlsoText { media("text/plain", "Text", &json) }
            }
        }
        var codes = route.problems + commonProblems
        if !route.isOpen { codes += [.unauthorized] + redisProblems }
        if route.method != .get { codes.append(.originRefused) }
        if route.request != nil { codes.append(.unsupportedMedia) }
        var statuses: [Int] = []
        for code in codes where !statuses.contains(code.status) { statuses.append(code.status) }
        for status in statuses.sorted() {
            json.key("\(status)")
            json.object { json in
                let names = codes.filter { $0.status == status }.map(\.name)
                json.field("description", names.joined(separator: ", "))
                content("application/problem+json", "Problem", &json)
            }
        }
    }

    private static func content(_ type: String, _ schema: String, _ json: inout JSONWriter) {
        json.key("content")
        json.object { media(type, schema, &$0) }
    }

    private static func media(_ type: String, _ schema: String, _ json: inout JSONWriter) {
        json.key(type)
        json.object { json in
            json.key("schema")
            json.raw(##"{"$ref":"#/components/schemas/\##(schema)"}"##)
        }
    }

    private static let information = #"""
        {"title":"Ringfence","version":"1","license":{"name":"Apache-2.0","identifier":"Apache-2.0"},"description":"Fenced locks on Redis. A lock is held until a deadline and carries a fence, a number that only grows for that lock: hand it to the resource you protect, which refuses older ones. deadlineMs counts from the moment you sent the request. The token is the right to renew and release; it is a secret. Every failure is application/problem+json with a stable code."}
        """#

    private static let schemas = #"""
        {"Name":{"type":"string","minLength":1,"maxLength":512,"description":"1 to 512 bytes of UTF-8 without control or format characters"},
        "Names":{"type":"array","items":{"$ref":"#/components/schemas/Name"},"minItems":1,"maxItems":64,"uniqueItems":true},
        "Owner":{"type":"string","minLength":1,"maxLength":128,"description":"Who holds, for people. Default: http/ and the client's address"},
        "TtlMs":{"type":"integer","minimum":100,"maximum":86400000,"description":"How long the hold lasts without renewal"},
        "WaitMs":{"type":"integer","minimum":0,"maximum":300000,"default":0,"description":"How long to wait in line. The wait ends when the connection closes"},
        "Token":{"type":"string","minLength":1,"maxLength":512,"description":"The right to renew and release. A secret"},
        "RequestId":{"type":"string","pattern":"^[!-~]{16,128}$","description":"A random text of your own, as secret as the token. A repeated request with it, to the same instance, finds the hold that the first was given, renewed for ttlMs"},
        "Fence":{"type":"string","pattern":"^[0-9]{1,19}$","description":"A signed 64-bit number in decimal; it only grows for a lock"},
        "DeadlineMs":{"type":"integer","minimum":0,"description":"The hold ends this many milliseconds after you SENT the request, on your monotonic clock; waiting is included"},
        "Milliseconds":{"type":"integer","minimum":0},
        "AcquireRequest":{"type":"object","additionalProperties":false,"required":["ttlMs"],"properties":{"owner":{"$ref":"#/components/schemas/Owner"},"ttlMs":{"$ref":"#/components/schemas/TtlMs"},"waitMs":{"$ref":"#/components/schemas/WaitMs"},"requestId":{"$ref":"#/components/schemas/RequestId"}}},
        "RenewRequest":{"type":"object","additionalProperties":false,"required":["token","ttlMs"],"properties":{"token":{"$ref":"#/components/schemas/Token"},"ttlMs":{"$ref":"#/components/schemas/TtlMs"}}},
        "ReleaseRequest":{"type":"object","additionalProperties":false,"required":["token"],"properties":{"token":{"$ref":"#/components/schemas/Token"}}},
        "AcquireAllRequest":{"type":"object","additionalProperties":false,"required":["names","ttlMs"],"properties":{"names":{"$ref":"#/components/schemas/Names"},"owner":{"$ref":"#/components/schemas/Owner"},"ttlMs":{"$ref":"#/components/schemas/TtlMs"},"waitMs":{"$ref":"#/components/schemas/WaitMs"},"requestId":{"$ref":"#/components/schemas/RequestId"}}},
        "RenewAllRequest":{"type":"object","additionalProperties":false,"required":["names","token","ttlMs"],"properties":{"names":{"$ref":"#/components/schemas/Names"},"token":{"$ref":"#/components/schemas/Token"},"ttlMs":{"$ref":"#/components/schemas/TtlMs"}}},
        "ReleaseAllRequest":{"type":"object","additionalProperties":false,"required":["names","token"],"properties":{"names":{"$ref":"#/components/schemas/Names"},"token":{"$ref":"#/components/schemas/Token"}}},
        "ForceRequest":{"type":"object","additionalProperties":false,"properties":{"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "Hold":{"type":"object","required":["name","owner","id","fence","token","deadlineMs"],"properties":{"name":{"$ref":"#/components/schemas/Name"},"owner":{"$ref":"#/components/schemas/Owner"},"id":{"type":"string","description":"Public id of the hold, the guards' holder argument"},"fence":{"$ref":"#/components/schemas/Fence"},"token":{"$ref":"#/components/schemas/Token"},"deadlineMs":{"$ref":"#/components/schemas/DeadlineMs"}}},
        "HoldAll":{"type":"object","required":["names","owner","id","fence","token","deadlineMs"],"properties":{"names":{"$ref":"#/components/schemas/Names"},"owner":{"$ref":"#/components/schemas/Owner"},"id":{"type":"string","description":"Public id of the hold, the guards' holder argument"},"fence":{"$ref":"#/components/schemas/Fence"},"token":{"$ref":"#/components/schemas/Token"},"deadlineMs":{"$ref":"#/components/schemas/DeadlineMs"}}},
        "Released":{"type":"object","required":["released"],"properties":{"released":{"const":true}}},
        "Holder":{"type":"object","required":["owner","fence","remainingMs"],"properties":{"name":{"$ref":"#/components/schemas/Name"},"owner":{"$ref":"#/components/schemas/Owner"},"id":{"type":"string","description":"Public id of the hold, the guards' holder argument"},"fence":{"$ref":"#/components/schemas/Fence"},"remainingMs":{"$ref":"#/components/schemas/Milliseconds"}}},
        "Waiter":{"type":"object","required":["owner","waitingMs","names"],"properties":{"owner":{"$ref":"#/components/schemas/Owner"},"waitingMs":{"$ref":"#/components/schemas/Milliseconds"},"names":{"$ref":"#/components/schemas/Names"}}},
        "Lock":{"type":"object","required":["name","holder","lastFence","queueLength","queue"],"properties":{"name":{"$ref":"#/components/schemas/Name"},"holder":{"anyOf":[{"$ref":"#/components/schemas/Holder"},{"type":"null"}]},"lastFence":{"anyOf":[{"$ref":"#/components/schemas/Fence"},{"type":"null"}]},"queueLength":{"type":"integer","minimum":0},"queue":{"type":"array","items":{"$ref":"#/components/schemas/Waiter"},"maxItems":100}}},
        "LockPage":{"type":"object","required":["locks","next"],"properties":{"locks":{"type":"array","items":{"$ref":"#/components/schemas/Holder"}},"next":{"type":["string","null"],"description":"The cursor of the next page; null at the end"}}},
        "ForcedRelease":{"type":"object","required":["previous","fence"],"properties":{"previous":{"$ref":"#/components/schemas/Holder"},"fence":{"$ref":"#/components/schemas/Fence","description":"Every fence up to this one is dead: raise your guards to it"}}},
        "AuditRecord":{"type":"object","required":["at","action","names","owner","ownerProven","fence"],"properties":{"at":{"type":"integer","description":"Milliseconds since 1970 on Redis' clock"},"action":{"type":"string","examples":["grant","release","force","cancel"]},"names":{"$ref":"#/components/schemas/Names"},"owner":{"type":"string","description":"As the holder called itself"},"ownerProven":{"type":"boolean","description":"Whether an identity stands behind owner; a token has none, so it is false"},"fence":{"$ref":"#/components/schemas/Fence"},"heldMs":{"$ref":"#/components/schemas/Milliseconds"},"waitedMs":{"$ref":"#/components/schemas/Milliseconds"},"reason":{"type":"string"}}},
        "Audit":{"type":"object","required":["records"],"properties":{"records":{"type":"array","items":{"$ref":"#/components/schemas/AuditRecord"}}}},
        "Session":{"type":"string","pattern":"^[A-Za-z0-9._-]{1,64}$","description":"One life of a member. Public, no secret"},
        "LeaseMs":{"type":"integer","minimum":200,"maximum":3600000,"default":3000,"description":"How long it stays in the group after it was last heard of"},
        "MemberRequest":{"type":"object","additionalProperties":false,"description":"All that the member says of itself, each time: what is left out has its default. At most 8 KiB","properties":{"session":{"$ref":"#/components/schemas/Session","description":"From the answer to the join. Without it this is a join, and whoever has the id is replaced"},"address":{"type":"string","maxLength":512,"default":"","description":"Where it can be reached: HOST:PORT, [IPv6]:PORT or HOST, an absolute path, or a URL with ://, without quotes, blanks and the like"},"zone":{"type":"string","maxLength":64,"default":"","description":"What fails together with it"},"weight":{"type":"integer","minimum":0,"maximum":1000,"default":1,"description":"Its share; 0: it is a member, but takes nothing new"},"priority":{"type":"integer","minimum":-1000,"maximum":1000,"default":0},"capability":{"type":"array","items":{"type":"string","minLength":1,"maxLength":64},"maxItems":16},"metadata":{"type":"object","additionalProperties":{"type":"string","maxLength":1024},"maxProperties":32,"propertyNames":{"minLength":1,"maxLength":64}},"ttlMs":{"$ref":"#/components/schemas/LeaseMs"},"candidate":{"type":"boolean","default":false,"description":"It can be primary"},"health":{"type":"string","maxLength":512,"default":"","description":"Why its check fails; empty: it passes"},"position":{"type":"integer","minimum":0,"description":"How far its data has come"},"unfit":{"type":"string","maxLength":256,"description":"Why it may not lead now"},"claim":{"type":"object","additionalProperties":false,"required":["state","epoch"],"description":"What it does as primary: repeat it with each call. Past deadlineMs it must have stopped, and say gone","properties":{"state":{"enum":["elected","ready","drained","gone"]},"epoch":{"type":"integer","minimum":1},"position":{"type":"integer","minimum":0},"reason":{"type":"string","maxLength":64},"version":{"type":"integer","minimum":0,"description":"With drained, and needed there: the version of the last answer, so that what it says of one switchover is not taken for an answer to the next"}}}}},
        "MemberGrant":{"type":"object","required":["group","member","session","gen","version","ttlMs","deadlineMs","paceMs"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"member":{"$ref":"#/components/schemas/Name"},"session":{"$ref":"#/components/schemas/Session"},"gen":{"type":"string","description":"The generation of the event log that the version was made in"},"version":{"type":"integer","description":"Of the group, after this call"},"ttlMs":{"$ref":"#/components/schemas/LeaseMs"},"deadlineMs":{"type":"integer","minimum":0,"description":"It must stop this many milliseconds after you SENT the request, on your monotonic clock, unless it was renewed"},"paceMs":{"type":"integer","minimum":1,"description":"Repeat the call this often, with the session"},"primary":{"$ref":"#/components/schemas/PrimaryRole","description":"Of a candidate; if session is its own it is elected: promote, then claim ready"}}},
        "LeaveRequest":{"type":"object","additionalProperties":false,"properties":{"session":{"$ref":"#/components/schemas/Session","description":"Only if it is a member under this session; without it: in any case"},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "Removed":{"type":"object","required":["removed"],"properties":{"removed":{"type":"boolean","description":"false: it was not there, or not under this session"}}},
        "GroupMember":{"type":"object","required":["id","session","leaseMs","weight","priority","remainingMs","role","state"],"properties":{"id":{"$ref":"#/components/schemas/Name"},"session":{"$ref":"#/components/schemas/Session"},"leaseMs":{"$ref":"#/components/schemas/LeaseMs"},"address":{"type":"string"},"zone":{"type":"string"},"weight":{"type":"integer"},"priority":{"type":"integer"},"capability":{"type":"array","items":{"type":"string"}},"metadata":{"type":"object","additionalProperties":{"type":"string"}},"remainingMs":{"type":["integer","null"],"description":"What is left of its lease; null when Redis cannot be asked"},"candidate":{"type":"boolean"},"health":{"type":"string"},"role":{"enum":["primary","standby","member"]},"state":{"enum":["healthy","failing","maintenance","unfit","draining","lost"]},"election":{"$ref":"#/components/schemas/Candidate"}}},
        "Group":{"type":"object","required":["group","version","gen","stale","ageMs","heldMs","members"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer","description":"Grows by one with every change; 0: it never had a member"},"gen":{"type":"string"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"heldMs":{"type":["integer","null"],"description":"For so long nobody is taken out, because Redis was out of reach or lost data; null when Redis cannot be asked"},"breaker":{"$ref":"#/components/schemas/Breaker"},"primary":{"$ref":"#/components/schemas/PrimaryRole"},"pausedMs":{"$ref":"#/components/schemas/Milliseconds"},"brakedMs":{"$ref":"#/components/schemas/Milliseconds"},"settings":{"type":"object"},"plan":{"type":"object"},"members":{"type":"array","items":{"$ref":"#/components/schemas/GroupMember"}}}},
        "Groups":{"type":"object","required":["groups","stale","ageMs"],"properties":{"groups":{"type":"array","items":{"type":"object","required":["group","version","members"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer"},"members":{"type":"integer"},"primary":{"$ref":"#/components/schemas/PrimaryRole"}}}},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"}}},
        "Phase":{"type":"string","enum":["vacant","elected","ready","draining","recovering"]},
        "Reason":{"type":"object","required":["code","detail"],"properties":{"code":{"type":"string","description":"A stable word"},"member":{"$ref":"#/components/schemas/Name"},"detail":{"type":"string"}}},
        "PrimaryRole":{"type":["object","null"],"description":"null: nobody stands","required":["epoch","member","session","phase"],"properties":{"epoch":{"type":"integer","description":"Only grows"},"member":{"type":["string","null"]},"session":{"type":["string","null"]},"phase":{"$ref":"#/components/schemas/Phase"},"phaseMs":{"$ref":"#/components/schemas/Milliseconds"},"target":{"type":"string"},"last":{"type":"string"},"lacksStandbys":{"type":"boolean"}}},
        "Candidate":{"type":"object","required":["eligible","lag","position","penalty","fitForMs","maintenance","reasons"],"properties":{"member":{"$ref":"#/components/schemas/Name"},"eligible":{"type":"boolean"},"lag":{"type":["integer","null"]},"position":{"type":["integer","null"]},"penalty":{"type":"number"},"fitForMs":{"$ref":"#/components/schemas/Milliseconds"},"maintenance":{"type":"boolean"},"reasons":{"type":"array","items":{"$ref":"#/components/schemas/Reason"}}}},
        "Primary":{"type":"object","required":["group","primary","member"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer"},"gen":{"type":"string"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"heldMs":{"type":["integer","null"]},"breaker":{"$ref":"#/components/schemas/Breaker"},"primary":{"$ref":"#/components/schemas/PrimaryRole"},"member":{"anyOf":[{"$ref":"#/components/schemas/GroupMember"},{"type":"null"}]}}},
        "Members":{"type":"object","required":["group","members"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer"},"gen":{"type":"string"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"heldMs":{"type":["integer","null"]},"breaker":{"$ref":"#/components/schemas/Breaker"},"primary":{"$ref":"#/components/schemas/PrimaryRole"},"members":{"type":"array","items":{"$ref":"#/components/schemas/GroupMember"}}}},
        "Plan":{"type":"object","required":["group","primary","winner","electsInMs","blocked","candidates"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"primary":{"$ref":"#/components/schemas/PrimaryRole"},"winner":{"type":["string","null"]},"electsInMs":{"type":["integer","null"]},"blocked":{"type":"array","items":{"$ref":"#/components/schemas/Reason"}},"candidates":{"type":"array","items":{"$ref":"#/components/schemas/Candidate"}}}},
        "History":{"type":"object","required":["group","complete","entries"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"complete":{"type":"boolean","description":"Nothing older is kept"},"entries":{"type":"array","items":{"type":"object","required":["cursor","at","kind"],"properties":{"cursor":{"$ref":"#/components/schemas/Cursor"},"at":{"type":"integer"},"kind":{"type":"string"},"epoch":{"type":"integer"},"from":{"type":"string"},"to":{"type":"string"},"reason":{"type":"string"},"note":{"type":"string"},"actor":{"type":"string"},"detectMs":{"$ref":"#/components/schemas/Milliseconds"},"decideMs":{"$ref":"#/components/schemas/Milliseconds"},"drainMs":{"$ref":"#/components/schemas/Milliseconds"},"promoteMs":{"$ref":"#/components/schemas/Milliseconds"},"totalMs":{"$ref":"#/components/schemas/Milliseconds"}}}}}},
        "Breaker":{"enum":["automatic","open","closed"],"description":"What an operator ordered about calls to the members: open, nobody is called; closed, calls are made, however many fail; automatic, each decides for itself"},
        "BreakerRequest":{"type":"object","additionalProperties":false,"required":["state","reason"],"properties":{"state":{"$ref":"#/components/schemas/Breaker"},"actor":{"type":"string","minLength":1,"maxLength":128,"description":"Who orders it, for the event. Default: http/ and the client's address"},"reason":{"type":"string","minLength":1,"maxLength":512,"description":"Why, for the event"}}},
        "Ordered":{"type":"object","required":["group","outcome","primary"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"outcome":{"const":"done"},"primary":{"$ref":"#/components/schemas/PrimaryRole"}}},
        "SwitchoverRequest":{"type":"object","additionalProperties":false,"properties":{"to":{"$ref":"#/components/schemas/Name"},"timeoutMs":{"type":"integer","minimum":10,"maximum":3600000,"default":30000},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "FailoverRequest":{"type":"object","additionalProperties":false,"required":["to","acceptsDataLoss"],"properties":{"to":{"$ref":"#/components/schemas/Name"},"acceptsDataLoss":{"const":true},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "PauseRequest":{"type":"object","additionalProperties":false,"required":["forMs"],"properties":{"forMs":{"type":"integer","minimum":1000,"maximum":2592000000},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "OrderRequest":{"type":"object","additionalProperties":false,"properties":{"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "MaintenanceRequest":{"type":"object","additionalProperties":false,"required":["member","on"],"properties":{"member":{"$ref":"#/components/schemas/Name"},"on":{"type":"boolean"},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "SettingsRequest":{"type":"object","additionalProperties":false,"properties":{"rank":{"enum":["data","priority"]},"maxLag":{"type":"integer","minimum":-1},"lagStep":{"type":"integer","minimum":1},"zone":{"type":"string","maxLength":64},"failback":{"enum":["never","manual","automatic"]},"failbackAfterMs":{"type":"integer","minimum":0,"maximum":86400000},"drainMs":{"type":"integer","minimum":10,"maximum":3600000},"minStandbys":{"type":"integer","minimum":0,"maximum":100},"minStandbysAction":{"enum":["warn","refuseSwitchover","suspendWrites"]},"brakeCount":{"type":"integer","minimum":0,"maximum":16},"brakeWindowMs":{"type":"integer","minimum":1000,"maximum":86400000},"whenAway":{"enum":["fence","hold"]},"holdMs":{"type":"integer","minimum":1000,"maximum":86400000},"actor":{"type":"string","minLength":1,"maxLength":128},"reason":{"type":"string","maxLength":512}}},
        "RingPlanRequest":{"type":"object","additionalProperties":false,"properties":{"joining":{"type":"object","description":"Members that would join, or change, by their ids. What is left out stays as it is, or is weight 1 and no zone","additionalProperties":{"type":"object","additionalProperties":false,"properties":{"weight":{"type":"integer","minimum":0,"maximum":1000},"zone":{"type":"string","maxLength":64}}}},"leaving":{"type":"array","items":{"type":"string"},"description":"Ids of members that would leave"},"ranges":{"type":"boolean","default":false,"description":"Whether to list every range that moves"}}},
        "PickRequest":{"type":"object","additionalProperties":false,"properties":{"policy":{"enum":["leastLoaded","peakEWMA","roundRobin","weighted","random","ringHash","boundedLoad","primaryOnly","nearestZone"],"default":"leastLoaded"},"key":{"type":"string","description":"What the call is about; needed by ringHash and boundedLoad"},"zone":{"type":"string","minLength":1,"maxLength":64,"description":"Whose members are preferred; needed by nearestZone, and only taken by it"},"trackMs":{"type":"integer","minimum":1,"maximum":600000,"description":"Count the call as outstanding until it is reported, for this long at most"}}},
        "Pick":{"type":"object","required":["group","version","stale","ageMs","policy","member","address","zone","weight"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer","description":"Of the group's membership"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"policy":{"type":"string"},"member":{"$ref":"#/components/schemas/Name"},"address":{"type":"string","description":"Empty if it did not say"},"zone":{"type":"string"},"weight":{"type":"integer"},"call":{"type":"string","description":"With trackMs: report the end to this instance. Missing where too many calls are open: then it is not counted"}}},
        "OutcomeRequest":{"type":"object","additionalProperties":false,"required":["outcome"],"properties":{"outcome":{"enum":["success","failure","cancelled"],"description":"cancelled: nothing is learned"}}},
        "EndedCall":{"type":"object","required":["group","call","member","outcome"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"call":{"type":"string"},"member":{"$ref":"#/components/schemas/Name"},"outcome":{"type":"string"}}},
        "Position":{"type":"string","pattern":"^[0-9a-f]{16}$","description":"One of the 2^64 positions of the ring"},
        "Digest":{"type":"string","pattern":"^[0-9a-f]{32}$","description":"The same for two rings that place every key alike, and else different"},
        "Share":{"type":"number","minimum":0,"maximum":1,"description":"A part of all keys"},
        "Stale":{"type":"boolean","description":"Redis could not be asked lately: this is from the last snapshot"},
        "Ring":{"type":"object","required":["group","version","stale","ageMs","digest","seed","unit","points","members"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer","description":"Of the group's membership; 0 if it never had a member"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"digest":{"$ref":"#/components/schemas/Digest"},"seed":{"$ref":"#/components/schemas/Position"},"unit":{"type":"integer","description":"Points for each unit of weight"},"points":{"type":"integer"},"members":{"type":"array","items":{"type":"object","required":["id","weight","share","fairShare"],"properties":{"id":{"type":"string"},"weight":{"type":"integer"},"zone":{"type":"string"},"share":{"$ref":"#/components/schemas/Share"},"fairShare":{"$ref":"#/components/schemas/Share"}}}}}},
        "RingOwner":{"type":"object","required":["group","version","stale","ageMs","digest","key","position","owner","preference"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"digest":{"$ref":"#/components/schemas/Digest"},"key":{"type":"string"},"position":{"$ref":"#/components/schemas/Position"},"owner":{"type":["string","null"],"description":"null: no member takes keys"},"preference":{"type":"array","items":{"type":"string"},"description":"Who holds the copies, the owner first"}}},
        "RingAnswer":{"oneOf":[{"$ref":"#/components/schemas/Ring"},{"$ref":"#/components/schemas/RingOwner"}]},
        "RingPlan":{"type":"object","required":["group","version","stale","ageMs","digest","digestAfter","share","positions","ranges","flows"],"properties":{"group":{"$ref":"#/components/schemas/Name"},"version":{"type":"integer"},"stale":{"$ref":"#/components/schemas/Stale"},"ageMs":{"$ref":"#/components/schemas/Milliseconds"},"digest":{"$ref":"#/components/schemas/Digest"},"digestAfter":{"$ref":"#/components/schemas/Digest"},"share":{"$ref":"#/components/schemas/Share"},"positions":{"type":"string","description":"How many positions move, 0 to 2^64, in decimal"},"ranges":{"type":"integer","description":"In how many ranges"},"flows":{"type":"array","items":{"type":"object","required":["giver","taker","share","positions","ranges"],"properties":{"giver":{"type":["string","null"]},"taker":{"type":["string","null"]},"share":{"$ref":"#/components/schemas/Share"},"positions":{"type":"string"},"ranges":{"type":"integer"}}}},"moves":{"type":"array","items":{"type":"object","required":["after","through","giver","taker"],"properties":{"after":{"$ref":"#/components/schemas/Position"},"through":{"$ref":"#/components/schemas/Position"},"giver":{"type":["string","null"]},"taker":{"type":["string","null"]}}}}}},
        "Cursor":{"type":"string","pattern":"^[A-Za-z0-9._-]{1,64}:[0-9]{1,16}$","description":"A place in the event log, gen:seq; 0:0 is before the first event"},
        "Event":{"type":"object","required":["gen","seq","at","type"],"properties":{"gen":{"type":"string"},"seq":{"type":"integer","description":"Without gaps; gen:seq is the cursor behind the event"},"at":{"type":"integer","description":"Milliseconds since 1970 on Redis' clock"},"type":{"type":"string","examples":["member.joined","member.updated","member.left","member.expired","coordinator.gap","state.rolledBack"],"description":"Let unknown ones pass"},"group":{"type":"string"},"member":{"type":"string"},"version":{"type":"integer"},"of":{"type":"integer","description":"How many events belong to this change; 1 if absent"},"previous":{"type":"string"},"reason":{"type":"string"},"actor":{"type":"string"},"detail":{}}},
        "EventPage":{"type":"object","required":["events","next","end","oldest"],"properties":{"events":{"type":"array","items":{"$ref":"#/components/schemas/Event"}},"next":{"$ref":"#/components/schemas/Cursor","description":"Go on here"},"end":{"$ref":"#/components/schemas/Cursor","description":"The end of the log"},"oldest":{"$ref":"#/components/schemas/Cursor","description":"Before the oldest event that is kept"}}},
        "Health":{"type":"object","required":["status"],"properties":{"status":{"type":"string","examples":["alive","ready"]},"redisRoundTripMs":{"type":"number"}}},
        "Document":{"type":"object"},
        "Text":{"type":"string"},
        "Problem":{"type":"object","required":["type","title","status","code","detail","effect"],"properties":{"type":{"type":"string"},"title":{"type":"string"},"status":{"type":"integer"},"code":{"type":"string","description":"Stable; branch on this"},"detail":{"type":"string"},"field":{"type":"string","description":"The field at fault"},"effect":{"enum":["none","applied","unknown"],"description":"What is known of the request's work: with none it is safe to ask again"},"retryAfterMs":{"$ref":"#/components/schemas/Milliseconds"},"cursor":{"$ref":"#/components/schemas/Cursor","description":"With events.gone: the end of the log"},"oldest":{"$ref":"#/components/schemas/Cursor"},"lost":{"type":["integer","null"],"description":"With events.gone: how many events lie between; null if nobody can know"},"holder":{"$ref":"#/components/schemas/Holder"},"reasons":{"type":"array","items":{"$ref":"#/components/schemas/Reason"},"description":"With order.refused: all of them"}}}}
        """#
}
