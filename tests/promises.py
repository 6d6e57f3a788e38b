"""What we promise the people who use this, where we promised it, and which tests hold it.

``test_promises.py`` enforces it both ways: every promise has a test that exists and a place that exists, and every test
of a whole run holds a promise. Comments in the code call a promise by its number ("contract 10"). Promises of things
that are not built yet are not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing a person may rely on.

    ``number`` is the contract that it is a part of, None for what is no contract between two readers but simply must
    work. ``promised_in`` are "file#Heading", or a file alone. ``held_by`` are "tests/x/test_y.py::test_name".
    """

    says: str
    promised_in: tuple[str, ...]
    held_by: tuple[str, ...]
    number: int | None = None


def _held(file: str, *names: str) -> tuple[str, ...]:
    """Tests of one file, named without their folder, ending and ``test_``."""
    folder, _, module = file.rpartition("/")
    path = f"tests/{folder}/test_{module}.py" if folder else f"tests/test_{module}.py"
    return tuple(f"{path}::test_{name}" for name in names)


LIBRARY = (
    Promise(
        "LlmService is synchronous, AsyncLlmService its twin; both build, review and complete.",
        ("docs/library.md#As a library",),
        _held(
            "library",
            "three_questions_are_answered_and_booked",
            "the_async_twin_answers_alike",
            "database_and_config_may_be_named",
            "the_examples_of_the_docs_run",
        ),
        1,
    ),
    Promise(
        "A phase needs only a description; a key that no phase has is refused by name before anything is bought.",
        ("docs/library.md#A phase",),
        _held(
            "llm_service",
            "a_phase_needs_nothing_but_a_description",
            "a_phase_takes_every_key_of_the_contract",
            "a_phase_that_cannot_be_asked_is_refused_by_key",
        ),
        2,
    ),
    Promise(
        "Results carry the promised fields; the diff is ours, and any major issue means not approved.",
        ("docs/library.md#Results",),
        (
            *_held(
                "llm_service",
                "results_have_the_promised_fields",
                "a_builders_edits_become_a_patch_with_its_account",
                "a_verdict_is_read_and_a_major_issue_is_never_approved",
            ),
            *_held("replies/verdict", "a_major_issue_is_never_approved"),
        ),
        3,
    ),
    Promise(
        "A call made elsewhere is booked once, counts against every cap, and a cap that it passes is a breach.",
        ("docs/library.md#The other three", "docs/accounting.md#A cap that holds"),
        (
            *_held("library", "a_call_made_elsewhere_counts_against_the_same_cap"),
            *_held(
                "usage/recorder",
                "a_call_is_booked_as_external_with_its_cost",
                "repeating_a_call_changes_nothing",
                "the_same_call_with_other_numbers_is_a_conflict_and_the_first_stands",
                "a_cap_that_a_call_passes_is_recorded_as_breached",
            ),
        ),
        4,
    ),
    Promise(
        "select_model answers with a model, its provider and the reasons; a decision equals only an equal decision.",
        ("docs/library.md#The other three",),
        (
            *_held("library", "a_router_sees_every_change_at_its_next_question"),
            *_held("routing/model_router", "a_decision_equals_nothing_but_an_equal_decision"),
        ),
        5,
    ),
)

CONFIG = (
    Promise(
        "models.yaml is looked for where it is named, then in AUTOPACK_HOME, then in the package; never in the current"
        " folder. `config init` writes the default once.",
        ("docs/config.md#models.yaml: the reference",),
        (
            *_held(
                "config/config_file",
                "without_any_file_the_packaged_default_is_in_force",
                "the_file_of_the_home_comes_before_the_default",
                "an_explicit_file_comes_before_the_one_of_the_home",
                "the_current_folder_is_never_looked_at",
            ),
            *_held("cli/reading", "the_default_config_is_written_once_and_then_left_alone"),
        ),
        6,
    ),
    Promise(
        "Every key stands in the reference; all mistakes are named at once, with lines; the predecessor's files load.",
        ("docs/config.md#Files of the predecessor",),
        _held(
            "config/models_yaml",
            "every_key_that_the_loader_knows_is_in_the_reference",
            "every_problem_is_reported_at_once_with_its_line",
            "a_file_of_the_predecessor_loads_and_names_what_does_nothing",
        ),
        7,
    ),
    Promise(
        "A changed file is in force at the next question; a bad one leaves the last good one in force and says so.",
        ("docs/config.md#models.yaml: the reference",),
        _held(
            "config/config_file",
            "a_change_is_in_force_at_the_next_question",
            "a_bad_file_leaves_the_last_good_settings_and_says_why",
        ),
        7,
    ),
    Promise(
        "One account is never two budgets by accident: spellings of a provider are one id, twins are refused.",
        ("docs/config.md#`providers`",),
        _held(
            "config/models_yaml",
            "other_spellings_of_a_provider_are_read_as_its_id_with_a_notice",
            "two_ids_for_one_address_and_key_are_refused",
            "two_spellings_of_one_account_are_refused",
        ),
        8,
    ),
    Promise(
        "A run pins its model map when it starts; caps, keys and prices apply at once.",
        ("docs/routing.md#Overrides",),
        (
            *_held("routing/model_map", "a_pinned_map_keeps_its_answers_when_the_configuration_changes"),
            *_held("summary/models", "a_run_keeps_the_map_it_pinned_and_a_new_run_gets_the_present_one"),
            *_held("calls", "caps_and_prices_apply_at_once"),
            *_held("mcp_server/acting", "global_override_leaves_runs_in_progress_alone"),
        ),
        9,
    ),
)

CHOOSING = (
    Promise(
        "What was chosen or noted before a call began is seen by it, whichever process committed it.",
        ("docs/routing.md#From choice to call",),
        _held(
            "call_facts",
            "an_override_is_seen_by_the_very_next_question_and_so_is_its_end",
            "an_override_of_another_process_is_seen",
            "notes_are_those_in_force_at_the_question",
            "the_soft_limit_is_judged_with_the_process_own_last_booking",
        ),
        10,
    ),
    Promise(
        "A run's override goes before a global one, before category, before complexity; of several the more exact one,"
        " then the newest.",
        ("docs/routing.md#The rules, highest first", "docs/routing.md#Overrides"),
        (
            *_held("routing/model_router", "run_override_beats_global_override_beats_category", "baseline_answers"),
            *_held(
                "routing/overrides",
                "the_more_exact_of_two_answers_though_it_is_older",
                "of_two_equally_exact_ones_the_newest_answers",
                "undo_withdraws_every_standing_override_like_the_wish",
            ),
        ),
        10,
    ),
    Promise(
        "An override for a run changes phases that are queued or retried, exactly those its answer lists; a phase in"
        " hand ends as it began, unless a cap has stopped it.",
        ("docs/routing.md#Overrides", "README.md#Install and start a run"),
        (
            *_held("e2e/end_to_end", "an_override_for_the_run_changes_the_next_phase_and_no_other"),
            *_held(
                "e2e/steering",
                "a_choice_for_the_auditor_leaves_the_phase_in_hand_alone",
                "a_choice_undone_in_the_middle_of_a_phase_still_holds_for_that_phase",
                "a_choice_helps_a_phase_on_that_a_cap_has_stopped",
                "a_phase_that_is_tried_again_takes_the_choice_made_meanwhile",
            ),
            *_held("runs/supervisor", "an_override_for_a_run_takes_effect_on_its_next_phase"),
            *_held("mcp_server/acting", "override_lists_the_future_phases_that_change"),
        ),
        10,
    ),
    Promise(
        "A person's override is never rerouted; only a hard cap or a missing key stops it.",
        ("docs/routing.md#When an account runs low",),
        _held("routing/model_router", "a_persons_override_is_never_rerouted", "a_used_up_cap_blocks_an_override"),
        11,
    ),
    Promise(
        "The scorecard blames a model for nothing that a person or a provider did, counts each call once, and shows"
        " small samples as small.",
        ("docs/summaries.md#Scorecard",),
        (
            *_held(
                "summary/scorecard",
                "what_says_nothing_about_a_change_counts_neither_for_nor_against_it",
                "a_call_is_paid_by_the_model_that_answered_it_and_an_audit_by_the_model_it_judged",
                "an_unknown_price_is_counted_and_never_nothing",
                "a_small_sample_is_seen_to_be_small",
            ),
            *_held("runs/track_record", "all_tokens_of_all_attempts_are_counted_once", "rehearsals_are_in_neither"),
            *_held("mcp_server/scorecard", "rates_come_with_counts_and_their_range"),
            *_held("status_page/rendering", "a_small_sample_is_marked_and_has_no_percent"),
        ),
    ),
    Promise(
        "What is explained is what happens: every rule with its reason, every cap of the call, and what comes at 80 and"
        " 100 % of each, told by the functions that choose and deny.",
        ("docs/routing.md#Why, and what if",),
        (
            *_held(
                "routing/precedence",
                "every_rule_says_why_it_does_not_decide",
                "the_rule_that_decides_is_the_one_that_the_router_obeys",
            ),
            *_held("summary/outlook", "what_is_foretold_is_what_the_ledger_says"),
            *_held(
                "summary/explanation",
                "at_the_soft_limit_and_at_the_cap_the_first_fallback_without_an_objection_answers",
                "every_cap_that_the_call_must_fit_is_shown_with_its_use",
                "a_standing_order_is_shown_and_comes_before_what_the_soft_limit_would_do",
            ),
            *_held("mcp_server/models", "explanation_has_rules_caps_ifs_and_the_chain"),
        ),
    ),
    Promise(
        "From the soft limit on, work that may fall back goes to the first candidate whose own account is fit and that"
        " is not dearer; other categories keep their model or stop, as configured.",
        ("docs/routing.md#When an account runs low",),
        _held(
            "routing/model_router",
            "the_soft_limit_reroutes_from_the_token_that_reaches_it",
            "a_fallback_is_weighed_against_its_own_account",
            "a_category_that_never_falls_back_keeps_its_model_or_stops",
        ),
        12,
    ),
    Promise(
        "What is shown is what would be used, with reasons in words and every model that could be chosen instead.",
        ("docs/routing.md#Which model answers", "docs/mcp.md#Tools"),
        (
            *_held("routing/snapshot", "what_is_shown_is_what_would_be_used"),
            *_held("routing/model_router", "allowed_choices_are_all_models_with_a_key_and_their_state"),
            *_held("mcp_server/models", "choice_is_said_with_its_reasons_and_the_other_choices"),
        ),
        13,
    ),
)

CAPS = (
    Promise(
        "cap_tokens is our part of the configured cap, and every percent, level and limit is measured against it.",
        ("docs/summaries.md#Summaries: what the numbers mean",),
        (
            *_held("budgets/caps", "the_allowance_is_the_floor_of_cap_times_share"),
            *_held(
                "summary/usage",
                "used_is_settled_plus_reserved_against_the_allowance",
                "without_a_cap_in_this_period_there_is_no_percent_and_no_level",
            ),
            *_held("e2e/end_to_end", "the_usage_of_an_account_is_what_it_served_against_the_cap_that_is_ours"),
        ),
        14,
    ),
    Promise(
        "A call must fit every cap it touches, and belongs to the window in which it was reserved.",
        ("docs/accounting.md#A cap that holds",),
        (
            *_held(
                "budgets/ledger",
                "tokens_fit_up_to_the_cap_and_not_one_more",
                "a_call_must_fit_every_cap_or_none_of_them_counts_it",
                "a_call_counts_in_the_windows_of_its_reservation_also_when_it_ends_after_midnight",
            ),
            *_held("mcp_server/usage", "window_before_is_offset_minus_one"),
        ),
        15,
    ),
    Promise(
        "A cap is never passed, however many callers and processes there are.",
        ("docs/accounting.md#A cap that holds",),
        (
            *_held("budgets/ledger_processes", "processes_together_use_a_cap_up_and_never_pass_it"),
            *_held("budgets/ledger_properties", "whatever_happens_the_ledger_is_what_the_model_says"),
            *_held("calls_waiting", "however_many_ask_at_once_the_cap_holds_and_nothing_is_lost"),
        ),
        15,
    ),
    Promise(
        "What is reserved is more than any text can weigh and any price list can charge; near a cap the prompt is"
        " counted by its model's own tokenizer or vendor before a call is denied.",
        ("docs/accounting.md#What is reserved",),
        (
            *_held("bounds", "no_text_has_more_tokens_than_its_bound"),
            *_held("usage/price_bounds", "no_listed_model_can_bill_more_than_its_bound"),
            *_held(
                "calls_tightened",
                "a_prompt_that_its_bytes_keep_out_is_let_in_by_its_count",
                "a_standing_order_does_not_fire_for_bytes_that_a_count_puts_right",
            ),
            *_held("providers/counts", "another_server_is_not_asked_because_its_tokenizer_is_anybodys_guess"),
        ),
    ),
    Promise(
        "What no reservation bounds (tools, pictures, files, kept conversations, further answers, dearer tiers) is"
        " refused by name before anything is reserved, with or without a cap.",
        ("docs/library.md#Results", "docs/accounting.md#What is reserved"),
        (
            *_held(
                "llm_service",
                "messages_that_cannot_be_sent_are_refused_before_anything_is_reserved",
                "whatever_else_an_sdk_takes_is_refused_by_name_before_anything_is_reserved",
                "a_file_that_is_no_text_is_refused_by_name",
            ),
            *_held("calls_tightened", "a_model_that_does_more_than_write_is_refused_before_anything_is_reserved"),
        ),
    ),
    Promise(
        "A caller waits for calls in flight, for a bounded time; then a run pauses and says which cap, a library caller"
        " gets QuotaExhausted.",
        ("docs/routing.md#From choice to call",),
        (
            *_held(
                "calls_waiting",
                "a_caller_waits_for_calls_in_flight_and_then_goes_on",
                "a_caller_waits_for_calls_in_flight_only_so_long",
            ),
            *_held("runs/supervisor", "the_token_cap_of_a_run_pauses_it_and_says_which_cap"),
            *_held("llm_service", "an_exhausted_cap_raises_and_sends_nothing"),
        ),
        16,
    ),
    Promise(
        "A run that its own cap or a phase's has stopped says what to say, and goes on where it paused when that is"
        " raised; a cap lowered below what is spent denies the next call and breaks nothing.",
        ("docs/runs.md#Raising a cap",),
        (
            *_held(
                "runs/raising_caps",
                "a_run_stopped_by_its_cap_says_what_to_say_and_goes_on_where_it_paused",
                "the_cap_of_a_phase_stops_the_run_and_raised_lets_it_go_on",
                "a_cap_lowered_below_what_is_spent_stops_the_run_at_its_next_call_and_breaks_nothing",
                "a_run_that_a_cap_of_models_yaml_stopped_stays_stopped_until_that_one_is_raised",
            ),
            *_held("runs/cap_changes", "a_cap_that_is_so_already_changes_nothing_and_leaves_no_event"),
        ),
    ),
    Promise(
        "A run that stands still says only what would let it go on: how much its cap must be at least and about in all,"
        " when a shared cap resets, which other order is to be removed first.",
        ("docs/runs.md#Raising a cap",),
        (
            *_held(
                "summary/needs",
                "what_is_left_of_a_run_is_estimated_by_what_its_phases_took",
                "a_cap_that_is_used_up_is_waited_for_or_raised_in_the_file",
                "resuming_is_offered_as_soon_as_there_is_room_again",
                "an_order_that_would_stop_it_again_is_to_be_removed_first",
            ),
            *_held("runs/cap_changes", "a_run_whose_cap_is_still_too_small_gives_the_new_one_as_its_reason"),
        ),
    ),
    Promise(
        "A rehearsal buys nothing, needs no key, keeps the caps in a shadow of its own and says what it is.",
        ("README.md#autopack-mcp", "docs/accounting.md#Rehearsal figures"),
        (
            *_held("calls", "a_rehearsal_buys_nothing_needs_no_key_and_stays_in_its_shadow"),
            *_held("budgets/ledger", "a_rehearsal_starts_from_the_real_use_and_never_touches_it"),
            *_held("runs/supervisor", "the_ledger_of_a_rehearsal_holds_nothing_open_and_nothing_real"),
            *_held("status_page/rendering", "a_rehearsal_says_that_no_tokens_were_bought_before_any_number"),
        ),
        17,
    ),
    Promise(
        "Every call is one row, booked as the provider served it; nothing else is booked, and all sums agree.",
        ("README.md#What it does", "docs/accounting.md#A cap that holds"),
        (
            *_held(
                "e2e/end_to_end",
                "every_call_that_was_served_is_booked_as_it_was_served_and_nothing_else_is",
                "every_row_names_its_phase_attempt_and_role",
                "the_usage_of_a_model_is_what_it_served",
                "run_usage_and_rows_agree_on_the_total",
                "nothing_is_left_reserved",
            ),
            *_held("usage/rollup", "the_sums_equal_the_events_after_every_booking"),
        ),
    ),
    Promise(
        "An unknown price is unpriced, never nothing.",
        ("docs/accounting.md#Prices",),
        (
            *_held("usage/prices", "unknown_price_is_none_and_never_zero"),
            *_held("calls", "an_unpriced_call_costs_unknown_and_never_nothing"),
            *_held("status_page/rendering", "an_unknown_price_is_never_shown_as_nothing"),
        ),
    ),
)

LEDGER = (
    Promise(
        "`usage check` recomputes every sum, counter and rule from the events, and says in numbers what differs.",
        ("docs/accounting.md#Looking after the ledger",),
        (
            *_held(
                "budgets/check",
                "a_ledger_that_has_seen_everything_adds_up",
                "a_wrong_sum_is_said_with_both_numbers",
                "a_counter_that_is_one_off_is_said_with_both_numbers",
                "a_call_that_was_not_resolved_exactly_once_is_said",
                "a_cap_that_stands_exceeded_is_explained_to_the_token",
            ),
            *_held("cli/ledger", "each_difference_is_a_line_and_the_code_is_one"),
        ),
    ),
    Promise(
        "`usage rebuild` makes what is derived anew where it is wrong, and touches nothing else.",
        ("docs/accounting.md#Looking after the ledger",),
        _held(
            "budgets/rebuild",
            "a_damaged_table_is_found_and_mended",
            "every_counter_is_mended_but_for_the_start_of_a_rehearsals_window",
            "what_is_not_derived_is_left_as_it_is",
        ),
    ),
    Promise(
        "`usage prune` deletes calls by age, says what went, and keeps every sum; the ledger still adds up.",
        ("docs/accounting.md#Looking after the ledger",),
        _held(
            "usage/pruning",
            "what_would_go_is_what_goes",
            "what_they_came_to_stays",
            "windows_that_are_in_use_are_never_touched",
            "the_ledger_adds_up_at_every_commit_and_each_is_small",
        ),
    ),
    Promise(
        "`usage reprice` holds recorded costs against today's prices, each call at its own date, and changes no row.",
        ("docs/accounting.md#Looking after the ledger",),
        _held(
            "usage/repricing",
            "a_price_that_became_known_is_found",
            "a_call_is_priced_at_its_own_date",
            "what_nobody_prices_stays_unpriced_and_is_never_zero",
        ),
    ),
)

RUNS = (
    Promise(
        "Percent is completed phases of all, 0 to 100, and falls only when a person retries.",
        ("docs/summaries.md#Summaries: what the numbers mean",),
        (
            *_held("runs/progress", "progress_never_falls_unless_a_person_retries"),
            *_held(
                "e2e/end_to_end",
                "the_run_succeeds_and_says_so_in_every_field",
                "progress_as_the_chat_saw_it_never_goes_back",
                "the_place_in_the_plan_moves_only_forward",
            ),
        ),
        19,
    ),
    Promise(
        "After its last attempt a phase has failed and the run needs a person, or goes on where the plan says so.",
        ("docs/runs.md#A phase's states",),
        (
            *_held(
                "runs/supervisor",
                "a_failed_phase_does_not_stop_a_plan_that_says_continue",
                "resuming_a_run_that_needs_attention_tries_its_failed_phase_again",
            ),
            *_held("e2e/faults", "a_change_that_is_rejected_to_the_end_leaves_no_commit_and_asks_for_a_person"),
        ),
        20,
    ),
    Promise(
        "A phase may be tried anew, skipped for a reason, or edited before it is tried; what was committed stays, and"
        " saying the same twice changes nothing.",
        ("docs/runs.md#Steering a phase", "docs/mcp.md#Tools"),
        (
            *_held(
                "runs/phase_wishes",
                "a_wish_does_what_the_document_says_and_leaves_the_lease_free",
                "a_skipped_phase_says_why_and_by_whom_wherever_it_is_shown",
                "an_edit_changes_the_pinned_plan_and_the_log_keeps_both_texts",
            ),
            *_held(
                "runs/steering",
                "a_phase_skipped_in_mid_call_books_the_call_and_the_run_ends_without_it",
                "a_phase_skipped_in_mid_command_leaves_no_process_and_a_clean_workspace",
                "a_queued_phase_is_edited_while_its_driver_has_the_plan_in_memory",
                "the_attempt_in_hand_of_a_paused_run_is_dropped_and_begins_anew_on_resume",
                "requests_about_one_run_are_obeyed_in_the_order_in_which_they_were_asked",
            ),
            *_held(
                "e2e/phases_from_chat",
                "a_chat_skips_the_phase_in_hand_and_edits_the_next_one",
                "a_chat_is_told_what_it_may_say_of_a_run_that_needs_attention_and_each_of_it_works",
                "a_chat_drops_the_attempt_of_a_paused_run",
            ),
        ),
        20,
    ),
    Promise(
        "A command that this machine runs is set from a chat only where plans may come from there.",
        ("docs/runs.md#Steering a phase", "docs/config.md#`alerts`, `runs`, `plan_folders`, `allow_inline_plans`"),
        _held(
            "e2e/phases_from_chat",
            "a_command_that_this_machine_runs_comes_from_a_chat_only_where_that_is_allowed",
        ),
    ),
    Promise(
        "A phase that goes round in circles stops before its last attempt and says what repeats and what may help.",
        ("docs/runs.md#Stuck",),
        (
            *_held("runs/steering", "a_phase_that_fails_in_the_same_way_three_times_stops_before_all_its_attempts"),
            *_held(
                "runs/outcomes",
                "the_same_failure_a_third_time_stops_the_phase_whatever_is_left_and_says_what_may_help",
                "the_same_change_a_third_time_is_spend_without_anything_new",
                "a_retry_by_a_person_counts_anew_what_repeats",
            ),
        ),
        20,
    ),
    Promise(
        "Red is never success: the auditor is skipped, the attempt is spent, and its reason stands in the next prompt.",
        ("README.md#What it does", "docs/runs.md#A phase's states"),
        (
            *_held(
                "runs/supervisor",
                "a_red_verification_is_never_success_and_its_output_is_fed_back",
                "unverified_phases_say_so",
            ),
            *_held("runs/states", "a_phase_succeeds_only_after_verification_and_approval"),
        ),
        21,
    ),
    Promise(
        "A rejected change is rolled back and its builder told why; a verdict nobody can read is asked for once more.",
        ("README.md#What it does",),
        (
            *_held("e2e/end_to_end", "a_rejected_attempt_is_told_why_and_nobody_else_is"),
            *_held("runs/supervisor", "a_rejected_attempt_is_rolled_back_and_the_second_one_succeeds"),
            *_held(
                "e2e/faults",
                "an_unusable_verdict_is_asked_for_once_more_within_the_attempt",
                "two_unusable_verdicts_cost_the_attempt",
            ),
        ),
        21,
    ),
    Promise(
        "The auditor sees the real diff, the real output of the command and the acceptance criteria.",
        ("docs/architecture.md#One phase, end to end",),
        _held(
            "e2e/end_to_end",
            "the_auditor_sees_the_real_diff_and_the_acceptance_criteria",
            "every_phase_asks_its_builder_and_then_its_auditor_and_nobody_else",
        ),
    ),
    Promise(
        "Each phase is one commit with trailers on the run's branch, there before the phase counts; your checkout stays"
        " untouched.",
        ("docs/workspace.md#What appears in your repository", "docs/workspace.md#Commits"),
        (
            *_held(
                "e2e/end_to_end",
                "each_phase_is_one_commit_with_its_files_and_trailers_and_nothing_else",
                "the_tests_of_the_project_fail_before_and_pass_on_the_runs_branch",
                "the_persons_checkout_is_not_touched",
            ),
            *_held("runs/supervisor", "a_plan_becomes_one_commit_a_phase_and_the_checkout_stays_untouched"),
            *_held(
                "workspace/clone",
                "nothing_of_the_persons_is_touched_by_a_whole_run",
                "the_clone_outlives_a_prune_of_the_repository_after_the_base_was_force_pushed_away",
                "a_commit_of_the_person_on_our_branch_is_not_overwritten",
            ),
        ),
        22,
    ),
    Promise(
        "Set-up runs once per workspace; an Autopack request is accepted as it is when a repository and a command are"
        " given.",
        ("docs/plans.md#The plan", "docs/plans.md#Autopack's run requests"),
        (
            *_held("workspace/clone", "what_set_up_makes_stays_and_enters_no_commit"),
            *_held("plans/run_request", "a_request_must_be_given_a_repository_and_a_command"),
            *_held("plans/plan_file", "a_plan_without_a_command_must_say_so"),
        ),
        23,
    ),
    Promise(
        "A project's rules enter every prompt of a run as they stood when it started.",
        ("docs/architecture.md#One phase, end to end",),
        _held("e2e/end_to_end", "every_prompt_has_the_rules_as_they_stood_at_the_start"),
        24,
    ),
    Promise(
        "A note is quoted in every later prompt until it is withdrawn, and the status says which phase got it first;"
        " lines that a person adds to the notes file become notes.",
        ("docs/mcp.md#Tools", "README.md#Install and start a run"),
        (
            *_held(
                "e2e/end_to_end",
                "a_note_is_quoted_in_every_later_prompt_and_the_status_says_who_got_it_first",
            ),
            *_held("e2e/steering", "a_withdrawn_note_is_in_no_later_prompt"),
            *_held(
                "runs/supervisor",
                "a_note_is_in_every_later_prompt_and_the_status_says_who_got_it_first",
                "a_line_added_to_the_notes_file_by_hand_becomes_a_note",
            ),
            *_held("notes", "two_processes_append_at_once_without_losing_or_splitting_a_line"),
        ),
        25,
    ),
    Promise(
        "The words of the predecessor's users are understood: stop, in_progress, DONE_SUCCESS.",
        ("docs/mcp.md#Tools", "docs/mcp.md#Answers"),
        (
            *_held("summary/run", "states_answer_to_the_predecessors_words"),
            *_held("mcp_server/acting", "stop_is_cancel"),
        ),
        26,
    ),
    Promise(
        "A pause holds at the next step boundary and says what it waits for within a second; pause now and cancel"
        " interrupt, and leave no process behind.",
        ("docs/runs.md#The steps of a phase, and what a crash in each of them leaves",),
        (
            *_held("e2e/end_to_end", "pause_holds_the_run_at_a_step_boundary_until_it_is_told_to_go_on"),
            *_held("e2e/steering", "a_pause_is_acknowledged_while_its_step_goes_on_and_says_what_it_waits_for"),
            *_held(
                "runs/supervisor",
                "a_run_pauses_between_two_steps_and_goes_on",
                "pause_now_interrupts_the_call_in_hand_and_books_it",
                "cancel_ends_a_command_with_everything_it_started",
            ),
        ),
        27,
    ),
    Promise(
        "A run is a whole at any moment: the context block says where it stands, and what others wrote stays quoted.",
        ("docs/mcp.md#Resources",),
        (
            *_held(
                "e2e/end_to_end",
                "the_context_block_says_where_the_run_stands_and_quotes_what_others_wrote",
            ),
            *_held("summary/context_block", "no_text_leaves_its_marks"),
        ),
    ),
)

PROCESSES = (
    Promise(
        "Many threads and processes may write at once; what was promised to be written is written, in order.",
        ("docs/accounting.md#A cap that holds", "docs/architecture.md#Five decisions"),
        _held(
            "database/writer",
            "many_threads_write_at_once",
            "a_write_whose_caller_is_cancelled_is_still_written",
            "what_waits_together_is_written_in_order_by_one_transaction",
        ),
        28,
    ),
    Promise(
        "A run outlives the chat that started it and the kill of its supervisor, and goes on from its last finished"
        " step.",
        ("README.md#What it does", "docs/runs.md#Who advances it"),
        (
            *_held("e2e/kill", "a_run_outlives_its_client_and_its_supervisor_and_no_step_is_done_twice"),
            *_held("runs/supervisor", "a_run_goes_on_from_the_last_finished_step_when_its_supervisor_ends"),
            *_held("cli/serving", "starting_a_run_brings_up_a_supervisor_that_finishes_it"),
        ),
        29,
    ),
    Promise(
        "A process may be gone at any moment: the next one finishes the run with the same files and states, and its"
        " ledger has one more row for each call that was lost; every window is explained.",
        ("docs/durability.md#Every window",),
        _held(
            "durability/crash_points",
            "every_boundary_of_the_run_lies_in_a_window_and_every_window_has_one",
            "every_window_is_explained_to_people_and_drawn",
            "the_next_supervisor_finishes_what_a_crash_left",
            "a_run_that_is_cancelled_after_a_crash_keeps_exactly_what_stands_on_its_branch",
        ),
    ),
    Promise(
        "A process that stood still for longer than its lease writes nothing any more but what its calls have cost.",
        ("docs/durability.md#A process that stood still",),
        _held("durability/zombie", "a_supervisor_that_was_stopped_for_longer_than_its_lease_only_closes_its_ledger"),
    ),
    Promise(
        "However many chats and servers share a database, one supervises, the others say so, nothing is done twice.",
        ("docs/durability.md#Several processes on one database",),
        _held("durability/competitors", "two_chats_and_two_servers_on_one_database_do_nothing_twice"),
    ),
    Promise(
        "A moved or rewritten repository, a full disk, a busy or lost database, a provider that hangs: the run goes on"
        " by itself, or waits and says for what, and then goes on.",
        ("docs/durability.md#What happens around a run",),
        _held(
            "durability/surroundings",
            "a_run_waits_for_a_repository_that_was_moved_away_and_goes_on_when_it_is_back",
            "a_run_goes_on_when_the_branch_it_began_from_is_rewritten_and_swept",
            "a_branch_that_was_deleted_comes_back_whole_with_the_next_commit",
            "a_workspace_that_was_deleted_is_made_again",
            "a_run_waits_for_room_on_the_disk_of_its_workspace_and_goes_on",
            "a_run_goes_on_by_itself_when_the_disk_of_its_database_has_room_again",
            "a_run_goes_on_by_itself_when_somebody_gives_the_lock_of_its_database_back",
            "a_run_goes_on_by_itself_when_the_database_server_comes_back",
            "a_provider_that_never_answers_costs_attempts_and_then_a_person_is_asked",
        ),
    ),
    Promise(
        "A newer version brings the database up to date in the middle of a run, and the run goes on.",
        ("docs/durability.md#What happens around a run",),
        _held("durability/upgrade", "a_run_that_an_older_version_began_goes_on_under_this_one"),
    ),
    Promise(
        "However a server is killed, no billed call lacks its row, no phase is committed twice and none is left out.",
        ("docs/durability.md#How we know",),
        _held("benchmark_crash", "a_killed_server_leaves_no_unrecorded_call_no_second_commit_and_no_gap"),
    ),
    Promise(
        "A call in flight is never forgotten: interrupted, it is booked; lost, it is charged in full when its lease"
        " ends; not sent, it is given back.",
        ("docs/accounting.md#A cap that holds",),
        (
            *_held("e2e/kill", "a_run_outlives_its_client_and_its_supervisor_and_no_step_is_done_twice"),
            *_held(
                "calls_interrupted",
                "cancelling_in_mid_stream_books_it_as_cut_and_is_not_swallowed",
                "cancelling_while_reserving_releases_and_sends_nothing",
            ),
            *_held("budgets/ledger", "an_expired_call_is_charged_in_full_and_has_its_event"),
        ),
        30,
    ),
    Promise(
        "A read-only server lists no acting tool, and says why when one is called.",
        ("docs/mcp.md#Who may act", "docs/connect.md#Over HTTP"),
        (
            *_held(
                "mcp_server/server",
                "read_only_server_lists_no_acting_tool_and_says_why_when_one_is_called",
                "read_only_wins_over_being_able_to_act",
            ),
            *_held("mcp_server/stdio", "read_only_lists_no_acting_tool"),
        ),
        31,
    ),
    Promise(
        "Page, /mcp and /health answer on one loopback port; a taken port is a clear error.",
        ("README.md#Install and start a run", "docs/page.md#Addresses"),
        (
            *_held(
                "cli/serving",
                "one_port_answers_health_the_page_and_nothing_under_another_name",
                "a_taken_port_is_one_clear_line",
            ),
            *_held("status_page/pages", "the_addresses_people_know_lead_to_the_list"),
        ),
        32,
    ),
)

BAD_INPUT = (
    Promise(
        "A call whose usage is missing, no number or impossible is booked with its whole reservation, never dropped.",
        ("docs/accounting.md#Reading usage",),
        (
            *_held(
                "calls_usage",
                "a_call_whose_usage_cannot_be_read_is_booked_with_its_reservation",
                "a_part_above_its_whole_makes_the_whole_unknown",
                "an_answer_that_only_told_its_beginning_shows_that_and_weighs_its_reservation",
                "no_text_of_a_provider_keeps_a_call_from_being_booked",
            ),
            *_held("usage/reading", "unusable_usage_is_unknown_and_never_guessed"),
            *_held(
                "usage/event",
                "a_negative_count_cannot_be_built",
                "reasoning_cannot_exceed_the_output_it_is_a_part_of",
            ),
        ),
    ),
    Promise(
        "A dearer tier than was reserved for is booked as it is, and the cap that it passes is a breach.",
        ("docs/accounting.md#Prices",),
        _held("calls_usage", "a_dearer_tier_than_was_asked_for_is_booked_as_it_is_and_breaks_the_cap"),
    ),
    Promise(
        "A settle for an unknown call, and a clock that goes back, leave a ledger that adds up.",
        ("docs/accounting.md#A cap that holds",),
        (
            *_held("budgets/ledger", "a_call_that_was_never_reserved_cannot_be_settled_or_released"),
            *_held(
                "budgets/clock_set_back",
                "a_call_that_ends_before_it_began_counts_where_it_was_reserved",
                "no_lease_ends_while_the_clock_is_back_and_each_ends_once_afterwards",
            ),
        ),
    ),
    Promise(
        "Without a key that the plan needs nothing starts; the variable is named, and where to put it.",
        ("README.md#Install and start a run", "docs/connect.md#Keys"),
        (
            *_held("runs/supervisor", "a_real_run_without_a_key_is_refused_before_anything_exists"),
            *_held("cli/serving", "a_real_run_without_keys_names_the_variable_and_where_to_put_it"),
            *_held("summary/summaries", "the_keys_of_the_living_supervisor_are_what_counts"),
        ),
        29,
    ),
    Promise(
        "A plan with mistakes starts nothing, and all of them are named with file and line.",
        ("docs/plans.md#Plans: the reference",),
        (
            *_held("runs/supervisor", "a_bad_plan_starts_nothing_and_names_every_problem"),
            *_held(
                "plans/plan_file",
                "a_mistake_in_a_phase_is_said_with_its_key",
                "a_thousand_phases_load_within_a_second",
                "an_unknown_category_or_complexity_is_a_warning_that_names_the_fallback",
            ),
        ),
    ),
    Promise(
        "A provider that refuses, throttles, breaks, hangs or cuts its stream is asked again as often as that helps;"
        " then the attempt fails with the reason; what it may have billed is booked.",
        ("docs/accounting.md#What may have been billed when a call fails",),
        _held(
            "e2e/faults",
            "a_refused_key_fails_the_attempt_with_the_reason_and_costs_nothing",
            "a_rate_limited_call_is_made_again_and_both_tries_have_a_row",
            "a_wish_to_wait_for_hours_is_taken_for_a_quota_and_ends_the_trying",
            "a_provider_that_stays_broken_fails_the_attempt_after_a_bounded_number_of_requests",
            "a_call_that_hangs_ends_at_its_deadline_and_is_made_again",
            "a_builders_stream_that_is_cut_is_charged_in_full_and_asked_for_again",
            "an_auditors_stream_that_is_cut_keeps_what_was_seen_and_is_charged_in_full",
            "streams_that_are_always_cut_fail_the_attempt_and_the_next_one_goes_on",
        ),
    ),
    Promise(
        "A foreign diff makes exactly the tree that was meant or is refused; links, modes, binary content and paths"
        " that leave are refused by name.",
        ("docs/workspace.md#A foreign diff",),
        (
            *_held(
                "workspace/lanes",
                "a_spoilt_diff_makes_exactly_what_was_meant_or_nothing",
                "a_hostile_or_doubtful_diff_writes_nothing",
                "what_git_would_not_take_is_not_taken",
            ),
            *_held(
                "replies/diffs",
                "what_is_no_plain_change_of_text_files_is_refused_by_name",
                "a_diff_that_may_be_a_part_of_a_larger_one_is_refused",
            ),
        ),
    ),
    Promise(
        "Edits that do not fit are asked for once more within the attempt, with the refused part and the real lines; a"
        " crash, a pause or a cap in between repeats no question whose answer is on record.",
        ("docs/workspace.md#One repair",),
        (
            *_held(
                "e2e/repair",
                "a_hunk_that_does_not_fit_is_mended_within_the_attempt_with_the_real_lines_in_sight",
                "edits_that_do_not_fit_twice_cost_the_attempt_and_the_next_one_is_told",
            ),
            *_held(
                "runs/repair",
                "a_crash_around_the_repair_repeats_only_the_call_that_nobody_had_written_down",
                "one_repair_is_all_there_is_and_what_may_not_be_is_not_repaired",
            ),
        ),
    ),
    Promise(
        "Only a plan or a phase with allow_fuzzy takes a likely place; the change is marked and the auditor is told.",
        ("docs/workspace.md#Likely places", "docs/plans.md#A phase"),
        (
            *_held(
                "e2e/repair",
                "a_plan_that_allows_it_takes_the_likely_place_and_says_so_to_the_auditor_and_to_the_person",
            ),
            *_held("runs/repair", "what_a_phase_says_of_likely_places_outranks_its_plan"),
            *_held("workspace/lanes", "only_a_plan_that_says_so_gets_a_likely_place"),
        ),
    ),
    Promise(
        "A reply without edits fails the attempt, is paid for and recorded, and the builder is told why.",
        ("docs/workspace.md#The reply format",),
        _held("e2e/faults", "prose_instead_of_edits_fails_the_attempt_is_paid_for_and_the_reason_is_fed_back"),
    ),
    Promise(
        "A builder that writes outside the allowed paths, through a link or into .git is refused; nothing is written.",
        ("docs/workspace.md#What a builder may write",),
        (
            *_held("e2e/faults", "a_builder_that_writes_where_it_may_not_is_refused_each_time_and_told_why"),
            *_held("runs/supervisor", "a_change_outside_the_allowed_paths_is_refused_and_nothing_is_written"),
            *_held("workspace/clone", "a_path_that_is_not_the_builders_is_refused_and_nothing_is_written"),
        ),
    ),
    Promise(
        "A command that hangs is killed with all it started; of a flood the head and the tail are kept.",
        ("docs/workspace.md#How commands run",),
        (
            *_held(
                "e2e/faults",
                "a_verification_that_hangs_is_ended_at_its_deadline_and_the_reason_is_fed_back",
                "a_verification_that_floods_its_output_keeps_the_head_and_the_tail_of_it",
            ),
            *_held("processes", "a_deadline_reaches_a_grandchild_that_left_the_group_and_ignores_signals"),
        ),
    ),
    Promise(
        "Of a cancelled run nothing lives on, however its command resists, and that within a second.",
        ("docs/benchmarks.md#Cancelling",),
        _held("benchmark_cancel", "nothing_of_a_cancelled_run_lives_on_in_any_sandbox_of_this_machine"),
    ),
    Promise(
        "Nothing of a command outlives it: neither a lost group, environment or parent nor our own death hides it.",
        ("docs/workspace.md#How commands run",),
        _held(
            "keeper",
            "cancelling_reaches_whoever_has_shed_its_mark_its_group_and_its_parent",
            "what_a_command_left_behind_ends_with_it",
            "a_command_does_not_outlive_us",
            "without_its_keeper_a_command_is_still_ended_by_its_marks",
        ),
    ),
    Promise(
        "A command that passes a limit of its plan is ended; the attempt's reason names limit, use and key.",
        ("docs/workspace.md#Limits", "docs/plans.md#`limits`"),
        (
            *_held("keeper", "a_command_that_passes_a_limit_is_ended_and_the_limit_named"),
            *_held(
                "workspace/verify",
                "how_a_command_ended_is_said_in_words_with_the_limit_and_its_key",
                "a_limit_of_the_plan_reaches_its_commands_and_the_runs_reason",
            ),
            *_held("workspace/clone", "a_set_up_that_passes_a_limit_says_which"),
        ),
    ),
    Promise(
        "The status says how commands are confined.",
        ("docs/workspace.md#The sandbox",),
        _held(
            "sandbox",
            "without_bubblewrap_the_status_says_so",
            "a_bubblewrap_that_does_not_work_here_is_not_used_and_the_status_says_why",
            "the_status_says_what_the_sandbox_does",
        ),
    ),
    Promise(
        "An unknown run, a typo or an impossible action is an error that says what exists or is allowed.",
        ("docs/mcp.md#Errors",),
        (
            *_held("runs/supervisor", "what_cannot_be_asked_says_what_can"),
            *_held("mcp_server/runs", "unknown_run_is_answered_with_those_that_exist"),
            *_held("mcp_server/tool", "wrong_argument_is_refused_in_words"),
            *_held("mcp_server/acting", "request_that_cannot_be_is_refused_with_what_can"),
        ),
    ),
    Promise(
        "A database that is newer, locked, read-only or out of disk is one clear line, and nothing is lost.",
        ("docs/architecture.md#Five decisions",),
        (
            *_held("database/migrate", "a_database_of_a_newer_program_is_refused_and_left_alone"),
            *_held("database/writer", "a_lock_that_outlasts_the_timeout_refuses_all_that_wait_and_nothing_after"),
            *_held("database/engine", "a_full_disk_refuses_the_write_and_keeps_what_was_there"),
            *_held("cli/reading", "a_read_only_database_is_one_clear_line"),
        ),
    ),
    Promise(
        "Runs share a machine fairly: the oldest first, nobody holds every place, and who waits says why.",
        ("docs/runs.md#Whose turn it is",),
        (
            *_held(
                "runs/queue",
                "the_oldest_go_first_until_every_place_is_taken",
                "one_repository_takes_its_own_places_and_leaves_the_others_free",
                "everybody_gets_a_run_before_anybody_gets_the_next",
                "the_last_place_is_kept_for_somebody_else",
            ),
            *_held("runs/supervision", "as_many_runs_as_there_are_places_are_advanced_oldest_first"),
            *_held("summary/waiting", "a_run_says_why_it_waits_and_its_place_without_any_write"),
        ),
    ),
    Promise(
        "A run is advanced where its repository is: by its own machine, or for a URL by a worker.",
        ("docs/runs.md#Who advances it",),
        (
            *_held(
                "runs/queue",
                "a_serve_takes_what_stands_on_its_machine_and_urls_while_no_worker_lives",
                "a_worker_takes_what_every_machine_reaches",
            ),
            *_held("runs/worker", "two_machines_on_one_database_do_not_take_each_others_runs"),
        ),
    ),
    Promise(
        "Behind a URL each phase is pushed before it counts, nothing is overwritten, and nothing a run wrote is run.",
        ("docs/workspace.md#What appears in your repository", "docs/plans.md#The plan"),
        (
            *_held(
                "workspace/remote",
                "another_machine_goes_on_from_what_was_pushed",
                "publishing_again_after_a_crash_changes_nothing",
                "a_branch_that_somebody_moved_is_left_as_it_is_and_says_so",
                "a_branch_that_somebody_deleted_is_not_made_again_behind_their_back",
                "nothing_that_a_command_wrote_into_its_workspace_runs_on_the_way_out",
            ),
            *_held(
                "runs/supervisor",
                "a_plan_with_a_url_is_pushed_phase_by_phase",
                "a_branch_moved_behind_a_url_stops_the_run_for_a_person",
            ),
            *_held("plans/repository_url", "what_git_could_be_tricked_with_or_would_be_stored_is_refused"),
        ),
        22,
    ),
    Promise(
        "Any number of workers share runs, no step is done twice, and a killed one is taken over in ten seconds.",
        ("docs/scaling.md#Workers",),
        _held(
            "runs/worker",
            "two_workers_share_runs_and_no_step_is_done_twice",
            "a_run_of_a_killed_worker_is_taken_over_within_ten_seconds",
            "what_a_person_asks_reaches_the_worker_that_holds_the_run",
            "a_worker_that_is_told_to_end_leaves_its_run_to_the_next_one_and_no_job",
            "a_serve_leaves_urls_to_workers_and_a_worker_leaves_paths_to_serves",
        ),
    ),
    Promise(
        "The MCP server and the page keep nothing between requests, so any number may stand behind a load balancer.",
        ("docs/scaling.md#The server and the page behind a load balancer",),
        _held(
            "mcp_server/balanced",
            "requests_that_alternate_between_two_servers_are_one_conversation",
            "the_page_is_the_same_whoever_shows_it",
        ),
    ),
    Promise(
        "Of two servers on one database the second says who holds the place, and only reads.",
        ("docs/architecture.md#Five decisions",),
        (
            *_held("cli/serving", "a_second_serve_says_who_holds_the_place_and_serves_reading"),
            *_held("runs/supervisor", "a_second_supervisor_of_one_home_is_refused_and_says_who_holds_it"),
        ),
    ),
)

FIRST_STEPS = (
    Promise(
        "The demo shows a whole run with real commits, buys nothing, and ends with an honest exit code.",
        ("README.md#autopack-mcp",),
        _held("cli/serving", "the_demo_ends_by_itself_with_real_commits_and_code_zero"),
    ),
    Promise(
        "The block in mcp.json works as it is pasted; both eras of the protocol are answered.",
        ("README.md#Connect a client", "docs/connect.md#Connect a client"),
        (
            *_held("wheel", "block_of_mcp_json_works_as_pasted_where_the_command_is_on_the_path"),
            *_held("mcp_server/stdio", "both_eras_are_answered"),
        ),
    ),
    Promise(
        "An installed program carries its default config and example and works in an empty folder.",
        ("docs/config.md#models.yaml: the reference",),
        _held(
            "wheel",
            "installed_program_finds_its_own_default_config",
            "installed_program_checks_its_config_in_an_empty_folder",
        ),
    ),
    Promise(
        "Answers of tools are small, complete or say where the rest is, and show hidden characters of others' words.",
        ("docs/mcp.md#Answers",),
        _held(
            "mcp_server/runs",
            "status_has_every_promised_field",
            "status_is_small_whatever_people_and_models_wrote",
            "status_of_a_thousand_phases_is_small_and_says_where_the_rest_is",
        ),
    ),
    Promise(
        "The page only reads, runs no foreign text as markup, and answers only names that are ours.",
        ("docs/page.md#What keeps it to yourself",),
        (
            *_held("status_page/rendering", "no_text_becomes_an_element_an_attribute_or_an_address"),
            *_held("status_page/guards", "only_our_own_names_are_answered"),
            *_held("status_page/guards", "nothing_but_the_tools_takes_more_than_reading"),
        ),
    ),
    Promise(
        "`status` answers quickly: it loads neither the protocol nor a vendor's SDK.",
        ("docs/architecture.md#Starting fast",),
        _held("shape/imports", "status_answers_without_the_protocol_and_the_sdks"),
    ),
    Promise(
        "No key is ever stored, shown or sent to anybody but its provider.",
        ("docs/connect.md#Keys", "docs/accounting.md#What may have been billed when a call fails"),
        (
            *_held("home", "no_key_is_ever_shown"),
            *_held("calls", "no_key_and_no_prompt_is_ever_in_the_database"),
            *_held("processes", "a_command_gets_no_keys_and_nothing_of_ours"),
        ),
    ),
)

DATABASES = (
    Promise(
        "Any number of processes and machines share one database: one writes at a time, a stopped one holds nobody up.",
        ("docs/postgres.md#What is different",),
        (
            *_held(
                "database/postgres",
                "of_many_processes_one_writes_at_a_time",
                "a_process_that_is_stopped_in_the_middle_of_a_write_frees_the_others",
                "a_stopped_process_holds_others_up_for_less_than_they_wait",
            ),
            *_held("database/writer", "a_lock_that_outlasts_the_timeout_refuses_all_that_wait_and_nothing_after"),
            *_held("database/changes", "waiting_ends_when_another_program_commits"),
        ),
    ),
    Promise(
        "PostgreSQL is named by an address as people paste it, and its password is never repeated.",
        ("docs/postgres.md#Setting it up",),
        (
            *_held(
                "database/postgres",
                "an_address_may_be_written_as_people_paste_it",
                "a_wrong_password_is_said_in_one_line_and_shown_nowhere",
                "a_server_that_cannot_be_reached_is_one_line_without_the_password",
                "a_missing_driver_is_said_with_the_way_to_install_it",
            ),
            *_held("database/engine", "an_address_is_not_repeated_in_the_error_because_it_may_hold_a_password"),
            *_held("cli/serving", "processes_find_postgresql_in_the_file_env_of_their_home"),
        ),
    ),
    Promise(
        "A database server that went away is said in one line, and everything works again when it is back.",
        ("docs/postgres.md#What is different",),
        (
            *_held("database/postgres", "a_server_that_is_gone_is_said_and_found_again_when_it_is_back"),
            *_held("database/postgres", "a_server_that_was_restarted_between_two_writes_is_not_noticed"),
            *_held("database/changes", "a_server_that_was_restarted_is_heard_again"),
        ),
    ),
    Promise(
        "SQLite's log stays short, and is folded into its file only while nobody can commit.",
        ("docs/postgres.md#SQLite's log",),
        _held(
            "database/sqlite",
            "the_log_does_not_grow_however_much_is_written",
            "the_log_does_not_grow_when_processes_take_turns",
            "the_log_is_folded_only_while_nobody_else_can_commit",
            "sqlite_itself_folds_nothing",
        ),
    ),
)

ORDERS = (
    Promise(
        "A standing order is laid down in plain words, from a chat or a terminal; what could never hold is refused.",
        ("docs/orders.md#Laying one down",),
        (
            *_held(
                "mcp_server/orders",
                "stop_the_run_if_anthropic_goes_over_80_percent_of_the_weekly_cap",
                "pause_every_run_when_a_provider_reaches_a_share_of_its_week",
                "pause_the_run_when_it_or_a_phase_has_used_so_much",
                "tell_me_when_a_provider_has_used_so_much",
            ),
            *_held("control/orders", "what_could_never_hold_is_refused_and_nothing_is_written"),
            *_held("cli/orders", "an_order_is_laid_down_listed_and_removed"),
        ),
    ),
    Promise(
        "A standing order fires in the transaction that denies, never late and once; only the supervisor moves the run,"
        " a crash in between loses neither, and a person overrules it.",
        ("docs/orders.md#When an order fires", "docs/runs.md#A run's states"),
        (
            *_held(
                "budgets/standing_orders",
                "the_call_that_would_pass_the_threshold_is_denied_and_fires",
                "an_order_denies_until_somebody_has_acted_on_it_and_then_lets_every_call_pass",
                "a_new_window_is_a_new_reason_to_stop",
            ),
            *_held(
                "runs/firings",
                "an_order_pauses_a_run_at_the_call_that_would_pass_it_and_a_person_overrules_it",
                "a_firing_moves_its_run_or_is_marked_with_what_it_found",
                "a_crash_between_a_firing_and_its_move_loses_neither",
            ),
        ),
        18,
    ),
    Promise(
        "Orders and alerts stand in every status, in usage and on the page, with what was done and when.",
        ("docs/orders.md#Where they are seen", "docs/orders.md#Alerts"),
        (
            *_held("summary/orders", "a_run_shows_the_orders_that_may_stop_it_and_those_that_have"),
            *_held(
                "summary/alerts",
                "an_alert_is_a_sentence_with_its_numbers_and_its_time",
                "a_run_shows_alerts_of_itself_its_phases_and_the_open_windows_it_counts_on",
            ),
            *_held("status_page/rendering", "standing_orders_say_what_they_did_and_when"),
            *_held("cli/orders", "status_and_usage_show_orders_and_alerts"),
        ),
    ),
)

SUMMARIES = (
    Promise(
        "Usage is summed up for a day, a week, a month or between any two dates, by provider, model, role, category,"
        " day and run; it adds up to the events.",
        ("docs/summaries.md#Summaries: what the numbers mean", "docs/mcp.md#Tools"),
        (
            *_held(
                "usage/service",
                "every_grouping_adds_up_to_the_events",
                "a_window_holds_its_first_moment_and_not_its_last",
            ),
            *_held("usage/spans", "a_stretch_goes_from_one_moment_to_another"),
            *_held(
                "summary/usage",
                "a_stretch_between_two_dates_is_measured_against_no_cap",
                "history_has_every_day_that_has_begun",
                "runs_of_the_span_are_told_apart_by_what_they_spent_in_it",
                "core_and_auxiliary_roles_add_up_to_all",
            ),
            *_held("mcp_server/usage", "stretch_between_two_dates_has_no_cap"),
        ),
    ),
    Promise(
        "What a run cost is told by tier, phase, role and model, and adds up to its status.",
        ("docs/summaries.md#Summaries: what the numbers mean",),
        _held(
            "summary/run_usage",
            "tiers_are_the_sums_of_their_phases_in_plan_order",
            "the_parts_add_up_to_what_the_status_says",
        ),
    ),
    Promise(
        "Every cap says when it is reached at this pace, and from what that follows, or why there is no such time.",
        ("docs/summaries.md#Pace",),
        (
            *_held(
                "summary/pace",
                "what_is_left_goes_at_the_rate_of_the_hours_measured",
                "the_formula_holds_for_any_numbers",
                "a_cap_that_resets_before_is_not_reached_and_says_so",
                "without_any_use_there_is_no_pace_and_the_reason_is_said",
            ),
            *_held("summary/caps", "each_cap_is_paced_by_the_calls_that_it_counts"),
        ),
    ),
    Promise(
        "An export has every row once, as of one moment; no cell is a formula, and more rows need no more memory.",
        ("docs/summaries.md#Export",),
        (
            *_held(
                "usage/export",
                "an_export_is_of_one_moment_while_calls_go_on",
                "no_cell_is_a_formula",
                "four_times_the_rows_need_no_more_memory",
            ),
            *_held("status_page/exports", "no_other_site_can_start_a_download"),
        ),
    ),
    Promise(
        "A time that is none, lies in the future or runs backwards is refused, with what would be a time.",
        ("docs/summaries.md#Summaries: what the numbers mean",),
        (
            *_held("usage/spans", "what_names_no_past_or_present_time_is_refused_with_what_would"),
            *_held("usage/export", "what_cannot_be_written_out_is_refused_before_anything_is"),
            *_held("mcp_server/usage", "wrong_window_is_refused"),
            *_held("cli/usage", "what_cannot_be_shown_is_one_clear_line"),
        ),
    ),
)

REPLAY = (
    Promise(
        "A run begins again from any phase that it came to, under what it had pinned; it is as it was afterwards.",
        ("docs/runs.md#Replay: trying again from a phase",),
        (
            *_held(
                "control/forks",
                "a_fork_holds_the_plan_from_its_phase_on_and_begins_at_the_commit_before_it",
                "a_fork_keeps_what_the_run_had_pinned_whatever_has_changed_since",
                "a_run_is_forked_in_whatever_state_it_is",
                "what_cannot_be_forked_is_refused_and_leaves_nothing_behind",
            ),
            *_held("runs/forks", "a_fork_begins_where_its_phase_did"),
        ),
    ),
    Promise(
        "Of a fork the words, models and notes may be changed; a command only where plans may come from, too.",
        ("docs/runs.md#Replay: trying again from a phase",),
        _held(
            "control/forks",
            "words_models_and_notes_of_a_fork_are_what_was_asked_for",
            "a_verify_command_from_a_chat_is_taken_where_plans_are",
        ),
    ),
    Promise(
        "Two runs are compared by what happened: verdicts, tokens, cost, time, models, and git's diff of their trees.",
        ("docs/runs.md#Replay: trying again from a phase",),
        (
            *_held(
                "summary/comparison",
                "a_fork_is_compared_with_the_run_that_it_came_from",
                "the_diff_of_two_runs_is_gits_with_hidden_characters_shown",
                "a_diff_that_cannot_be_made_says_why_and_hides_nothing_else",
            ),
            *_held("cli/replaying", "a_fork_and_its_comparison_are_two_lines_to_type"),
            *_held("mcp_server/acting", "a_run_is_forked_and_compared_from_a_chat"),
        ),
    ),
)

REHEARSAL = (
    Promise(
        "A rehearsal estimates the real run, and every figure says on what it rests; small samples are called small.",
        ("docs/rehearsal.md#Where the figures come from",),
        (
            *_held(
                "summary/estimate",
                "without_answers_of_ones_own_prompts_are_weighed_and_answers_assumed",
                "ones_own_answers_count_as_alike_as_there_are_enough_of",
                "a_model_without_a_price_is_unpriced_and_not_free",
            ),
            *_held("cli/rehearsing", "a_rehearsal_ends_with_an_estimate"),
        ),
    ),
    Promise(
        "An estimate names the caps in the way and the phase in which each would stop the run.",
        ("docs/rehearsal.md#The caps in the way",),
        _held(
            "summary/estimate",
            "a_cap_is_in_the_way_where_the_promise_of_a_call_does_not_fit",
            "the_caps_of_the_plan_are_measured_from_nothing",
        ),
    ),
    Promise(
        "A plan that does not get through its rehearsal has no estimate, and the verb fails with the reason.",
        ("docs/rehearsal.md#Rehearsal: what a plan would cost",),
        _held("cli/rehearsing", "a_plan_that_does_not_get_through_its_rehearsal_has_no_estimate"),
    ),
)

BUILDERS = (
    Promise(
        "A builder that edits files in the workspace itself is held to the same rules; git says what it changed.",
        ("docs/builders.md#Builders: who writes a change",),
        _held(
            "runs/sessions",
            "a_builder_that_works_in_the_workspace_yields_its_change_by_git",
            "the_rules_for_a_builder_hold_for_one_that_edits_files_itself",
            "the_next_attempt_opens_a_session_of_its_own_in_a_clean_workspace",
        ),
    ),
    Promise(
        "A builder's session is reserved before it is launched; unknown usage is charged in full, never as nothing.",
        ("docs/builders.md#Builders: who writes a change",),
        _held(
            "runs/sessions",
            "what_a_session_reports_is_booked_and_priced_as_any_call",
            "a_session_that_reports_no_usage_is_charged_its_promise_and_never_nothing",
            "a_cap_denies_a_session_before_anything_is_launched",
        ),
    ),
    Promise(
        "A builder's session is on record before it runs: killed, it goes on; cancelled, it leaves nothing.",
        ("docs/builders.md#Builders: who writes a change",),
        _held(
            "runs/sessions",
            "a_session_that_was_killed_goes_on_under_its_name_where_it_was",
            "a_builder_that_has_lost_its_session_gives_the_attempt_up",
            "cancelling_ends_the_session_books_it_and_leaves_the_workspace_clean",
        ),
    ),
)

TRACES = (
    Promise(
        "Prompt and reply of a call are kept with its booking, unless a person wants numbers only.",
        ("docs/traces.md#What is kept of a call's words",),
        (
            *_held(
                "calls_traced",
                "prompt_and_reply_are_kept_with_the_booking",
                "every_try_keeps_its_prompt_and_only_an_answer_its_reply",
                "a_call_that_is_cut_keeps_its_prompt_and_has_its_span",
                "numbers_are_booked_and_no_words_kept_when_a_person_does_not_want_it",
            ),
            *_held("traces/texts", "words_that_cannot_be_packed_are_logged_and_left"),
        ),
    ),
    Promise(
        "No secret that has a known shape, or that this process holds, reaches a stored prompt or reply.",
        ("docs/traces.md#Secrets never reach the row",),
        (
            *_held("calls_traced", "no_key_of_ours_is_kept_in_a_prompt_or_a_reply"),
            *_held(
                "traces/redaction",
                "a_secret_is_replaced_by_what_kind_it_was",
                "code_that_speaks_of_secrets_stays_as_it_is",
                "no_known_secret_is_left_in_any_text",
                "a_text_made_to_be_slow_takes_as_long_as_any_other",
            ),
        ),
    ),
    Promise(
        "Every phase, attempt, call, verification, git step is one span of its run's trace, none lost, none doubled.",
        ("docs/traces.md#Spans",),
        (
            *_held(
                "runs/run_spans",
                "a_run_is_one_tree_of_everything_it_did",
                "what_failed_says_so_and_a_phase_tried_anew_begins_anew",
                "a_supervisor_that_goes_in_mid_call_leaves_no_span_open_or_doubled",
                "a_process_that_lost_its_run_writes_no_span_of_it",
            ),
            *_held("durability/crash_points", "the_next_supervisor_finishes_what_a_crash_left"),
        ),
    ),
    Promise(
        "A recorded prompt can be tried again, with edits, through the same door; both answers and costs are shown.",
        ("docs/traces.md#A prompt, tried again", "docs/library.md#Results"),
        (
            *_held(
                "experiments",
                "a_prompt_is_asked_again_and_both_answers_stand_side_by_side",
                "an_experiment_is_on_record_with_who_asked_and_keeps_its_own_words",
                "without_edits_it_is_the_same_question_to_the_same_model",
                "a_call_that_was_not_answered_can_be_tried_again",
                "what_cannot_be_tried_again_is_refused_before_anything_is_bought",
            ),
            *_held(
                "cli/experimenting",
                "a_prompt_is_shown_and_tried_again_with_both_costs_and_a_diff",
                "the_library_retries_prompts_too",
            ),
        ),
    ),
    Promise(
        "An experiment is held to the caps of its account, and touches neither the caps nor the numbers of a run.",
        ("docs/traces.md#A prompt, tried again",),
        _held(
            "experiments",
            "an_experiment_is_held_to_the_caps_of_its_account",
            "a_call_of_a_run_is_tried_again_beside_the_run",
        ),
    ),
    Promise(
        "Prompts and replies go after the days that models.yaml says.",
        ("docs/traces.md#What is kept of a call's words",),
        (
            *_held("cli/ledger", "words_go_as_models_yaml_says_and_spans_with_the_calls"),
            *_held("traces/texts", "words_older_than_a_moment_go_in_short_transactions"),
        ),
    ),
    Promise(
        "A collector that the standard variables name gets every span over OTLP; a dead one loses none, is said once.",
        ("docs/traces.md#Spans",),
        (
            *_held(
                "traces/export",
                "a_collector_gets_each_span_once_as_it_was",
                "a_collector_that_is_down_loses_nothing_and_is_said_once",
                "a_collector_that_is_not_there_hurts_nothing",
                "spans_that_a_collector_will_never_take_do_not_hold_up_the_others",
                "the_standard_variables_name_the_collector",
                "upkeep_asks_a_dead_collector_ever_more_rarely",
                "upkeep_deletes_words_by_age_and_leaves_spans",
            ),
            *_held("cli/serving", "a_server_sends_the_spans_of_its_runs_to_a_collector"),
        ),
    ),
    Promise(
        "Set-up and verification commands find their place in the run's trace in TRACEPARENT.",
        ("docs/traces.md#Spans",),
        _held("runs/run_spans", "set_up_and_verification_find_their_place_in_the_trace"),
    ),
    Promise(
        "Every call of a run has exactly one span, in the names of OpenTelemetry, and money is in none.",
        ("docs/traces.md#A call's span",),
        _held(
            "calls_traced",
            "a_call_of_a_run_is_a_span_below_its_attempt",
            "a_lost_call_has_its_span_and_a_late_truth_mends_it",
            "a_truth_that_comes_late_is_the_same_span",
            "a_try_that_may_have_been_billed_claims_no_usage",
        ),
    ),
)

PROMISES = (
    *LIBRARY,
    *CONFIG,
    *CHOOSING,
    *CAPS,
    *ORDERS,
    *SUMMARIES,
    *LEDGER,
    *RUNS,
    *REPLAY,
    *REHEARSAL,
    *BUILDERS,
    *TRACES,
    *PROCESSES,
    *BAD_INPUT,
    *DATABASES,
    *FIRST_STEPS,
)
