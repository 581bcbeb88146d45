//! A policy is checked against the configuration, and its version is its bytes.

use policies::{FileError, KnownRoute, Policy, PromptTokens, RouteId, SHIPPED};

fn routes(known: &[(&str, bool)]) -> Vec<KnownRoute> {
    known.iter().map(|(id, local)| KnownRoute { id: RouteId::new(id), local: *local }).collect()
}

#[track_caller]
fn policy(text: &str) -> Policy {
    Policy::parse("p", text).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(text: &str) -> FileError {
    Policy::parse("p", text).expect_err("a bad policy")
}

#[test]
fn shipped_policies_fit_any_configuration_without_warnings() {
    let both = routes(&[("home", true), ("away", false)]);
    for (name, text) in SHIPPED {
        let policy = Policy::parse(name, text).expect("a good policy");
        assert_eq!(policy.check(&both).map_err(|e| e.to_string()), Ok(Vec::new()), "{name}");
    }
}

#[test]
fn a_route_that_is_not_configured_is_an_error_with_its_place_and_a_suggestion() {
    let known = routes(&[("edge", true), ("cloud", false)]);
    let list = policy("\n[[choose]]\nname = \"x\"\nroutes = [\"cluod\"]\n");
    let error = list.check(&known).expect_err("an unknown route").to_string();
    assert_eq!(
        error,
        "p:4:11: choose[0].routes[0]: rule `x` names the route `cluod`, which is not configured; \
         did you mean `cloud`?"
    );
    let condition = policy(
        "[[choose]]\nname = \"x\"\nwhen.any = [{ not.routes.egde.queued.gt = 1 }]\n\
         routes = [\"@all\"]\n",
    );
    let error = condition.check(&known).expect_err("an unknown route");
    assert_eq!((error.line, &*error.key), (3, "choose[0].when.any[0].not.routes.egde"));
    let guard = policy(
        "[[guard]]\nname = \"g\"\ndeny = [\"gone\"]\n[[choose]]\nname = \"x\"\nroutes = [\"@all\"]\n",
    );
    let error = guard.check(&known).expect_err("an unknown route");
    assert_eq!((error.line, error.column, &*error.key), (3, 9, "guard[0].deny[0]"));
}

#[test]
fn budgets_that_rules_look_at_are_told_with_their_rule() {
    let policy = policy(
        "[[guard]]\nname = \"g\"\nwhen.not.any = [{ budgets.\"global/day\".left_usd.lt = \"1\" }]\n\
         deny = [\"@cloud\"]\n[[choose]]\nname = \"x\"\nroutes = [\"@all\"]\n",
    );
    let named = policy.named_budgets();
    let named: Vec<_> = named.into_iter().map(|(line, rule, id)| (line, &*rule.0, id)).collect();
    assert_eq!(named, [(1, "g", "global/day")]);
}

#[test]
fn what_may_not_be_meant_is_a_warning() {
    let warned = |text: &str, known: &[(&str, bool)]| -> Vec<String> {
        let warnings = policy(text).check(&routes(known)).expect("a policy that fits");
        warnings.iter().map(ToString::to_string).collect()
    };
    let both = [("edge", true), ("cloud", false)];
    let open = "[[choose]]\nname = \"x\"\nwhen.stream.eq = true\nroutes = [\"@all\"]\n";
    assert!(warned(open, &both)[0].starts_with("it can happen that no rule matches"));
    let unreached = "[[choose]]\nname = \"x\"\nroutes = [\"@all\"]\n\
                     [[choose]]\nname = \"y\"\nroutes = [\"@all\"]\n";
    assert_eq!(
        warned(unreached, &both),
        ["line 4: rule `y` is never reached: a rule before it always matches"]
    );
    assert_eq!(policy(unreached).warnings().len(), 1, "without any route too");
    let nobody = "[[choose]]\nname = \"x\"\nroutes = [\"@cloud\"]\n";
    assert_eq!(
        warned(nobody, &[("edge", true)]),
        ["line 1: rule `x` chooses none of the configured routes"]
    );
}

#[test]
fn the_version_is_the_hash_of_the_bytes() {
    let text = "[[choose]]\nname = \"x\"\nroutes = [\"@all\"]\n";
    let hash = blake3::hash(text.as_bytes()).to_hex();
    assert_eq!(&*policy(text).version().0, &hash[..16]);
    let commented = format!("{text}# seen\n");
    assert_ne!(policy(&commented).version(), policy(text).version());
    assert_eq!(policy(&commented).source(), commented);
}

#[test]
fn what_is_too_large_or_too_deep_is_refused() {
    let huge = format!("# {}\n", "x".repeat(1 << 20));
    assert!(refused(&huge).message.contains("larger than"));
    let deep = format!(
        "[[choose]]\nname = \"x\"\nwhen.{}stream.eq = true\nroutes = [\"@all\"]\n",
        "not.".repeat(17)
    );
    assert!(refused(&deep).message.contains("nested deeper"));
    let rule = |ix: usize| format!("[[choose]]\nname = \"r{ix}\"\nroutes = [\"@all\"]\n");
    let many: String = (0..501).map(rule).collect();
    assert!(refused(&many).message.contains("more than 500 rules"));
}

#[test]
fn a_list_of_nothing_is_refused_whatever_it_is_compared_with() {
    for condition in ["prompt_tokens.in", "routes.edge.state.in", "model.in", "tags.has_any"] {
        let text =
            format!("[[choose]]\nname = \"x\"\nwhen.{condition} = []\nroutes = [\"@all\"]\n");
        assert!(refused(&text).message.contains("is empty"), "{condition}");
    }
}

#[test]
fn a_table_of_nothing_is_no_condition() {
    for when in [
        "{}",
        "{ metadata = {} }",
        "{ caller = {} }",
        "{ time = {} }",
        "{ budgets = {} }",
        "{ routes = {} }",
        "{ any = [{ metadata = {} }] }",
        "{ all = [{}] }",
        "{ not = { metadata = {} } }",
        "{ not = {} }",
    ] {
        let error =
            refused(&format!("[[choose]]\nname = \"x\"\nwhen = {when}\nroutes = [\"@all\"]\n"));
        assert!(error.to_string().contains("has no condition"), "{when}: {error}");
    }
}

#[test]
fn a_test_says_of_failures_no_more_than_can_be_known() {
    let of = |fraction: &str| {
        format!(
            "[[choose]]\nname = \"x\"\nwhen.routes.edge.failed_fraction.lt = 0.0505\nroutes = [\"@all\"]\n\
             [[choose]]\nname = \"y\"\nrefuse = \"no\"\n\
             [[test]]\nname = \"t\"\nroutes.edge = {{ local = true, failed_fraction = {fraction} }}\n\
             expect.routes = [\"edge\"]\n"
        )
    };
    let error = refused(&of("0.0509"));
    assert!(error.to_string().contains("whole thousandth"), "{error}");
    policy(&of("0.05"));
}

#[test]
fn a_test_whose_case_cannot_occur_or_whose_name_is_taken_is_refused() {
    let of = |tests: &[&str]| {
        let rule = "[[choose]]\nname = \"x\"\nroutes = [\"@all\"]\n";
        let tests =
            tests.iter().map(|more| format!("[[test]]\n{more}\nexpect.routes = [\"edge\"]\n"));
        format!("{rule}{}", tests.collect::<String>())
    };
    let edge = |more: &str| format!("name = \"t\"\nroutes.edge = {{ local = true, {more} }}");
    for (sketch, said) in [
        (edge("expected_usd = \"5\", worst_usd = \"0.02\""), "expected_usd <= worst_usd"),
        (edge("ttft_p50 = \"5s\", ttft_p95 = \"1s\""), "ttft_p50 <= ttft_p95"),
        ("name = \"t\"\nrequest.choices = 0".to_owned(), "at least 1"),
    ] {
        let error = refused(&of(&[&sketch]));
        assert!(error.to_string().contains(said), "{error}");
    }
    policy(&of(&[&edge(
        "expected_usd = \"1\", worst_usd = \"1\", ttft_p50 = \"1s\", ttft_p95 = \"1s\"",
    )]));
    let error = refused(&of(&[&edge("queued = 1"), &edge("queued = 2")]));
    assert!(error.to_string().contains("`t` names two tests"), "{error}");
}

#[test]
fn bounds_of_a_prompt_enclose_what_is_likely() {
    for bytes in [0, 1, 3, 127, 128, 129, 1_000_000] {
        let tokens = PromptTokens::from_bytes(bytes, 8);
        assert!(tokens.min <= tokens.likely && tokens.likely <= tokens.max, "{tokens:?}");
        assert_eq!(tokens.max, bytes + 8);
        assert_eq!(tokens.min, bytes.div_ceil(128));
    }
}
