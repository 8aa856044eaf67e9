# SPDX-License-Identifier: BSD-2-Clause
"""What a malicious server or network may do to a client, and the tests that show what comes of it.

One row an attack: its number in the catalogue of hostile tests, what it is, and the tests (file and name) that make it.
`test_coverage.py` fails when a number has no row, or a row names a test that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = (16, 19, 20, 29, 30, 31, 32, *range(36, 53))
"""Those of the catalogue in which the client is the victim."""

HERE = "pair/hostile/"
PLANE = "unit/dataplane/"


@dataclass(frozen=True)
class Attack:
    """One row."""

    number: int
    what: str
    tests: tuple[str, ...]


ATTACKS = (
    Attack(
        16, "early negotiation: a key asked for that the client has not, malformed values",
        (HERE + "test_packets.py::test_early_negotiation_that_asks_for_a_key_we_have_not",
         "pair/test_client_key.py::test_a_server_that_asks_for_a_key_that_the_client_has_not",
         "unit/protocol/test_client_key.py::test_malformed_payload_of_a_servers_reset"),
    ),
    Attack(
        19, "floods of TLS records before and after the handshake, 16 MB of them, messages after the handshake",
        (HERE + "test_tls.py::test_floods_instead_of_a_handshake",
         HERE + "test_tls.py::test_floods_after_the_handshake",
         HERE + "test_tls.py::test_answers_that_are_never_acknowledged_are_bounded",
         HERE + "test_tls.py::test_renegotiation_inside_tls_is_refused",
         HERE + "test_messages.py::test_renewals_without_end_make_few_lines",
         HERE + "test_packets.py::test_packets_beyond_the_window_keep_nothing",
         HERE + "test_exchange.py::test_a_faulty_message_ends_the_attempt"),
    ),
    Attack(
        20, "control messages: without NUL, with several, control characters, of maximal size",
        (HERE + "test_messages.py::test_messages_of_any_size_and_content",
         HERE + "test_messages.py::test_a_message_without_its_nul_is_not_joined_with_the_next",
         HERE + "test_messages.py::test_chatter_without_end_is_cut_off",
         HERE + "test_script.py::test_by_dice",
         "unit/protocol/test_wire_texts.py::test_control_characters_make_no_message"),
    ),
    Attack(
        29, "data packets: id 0, repeated, reordered around the window, leaps, near the end of the numbers",
        (PLANE + "test_reference.py::test_replays_and_the_edge_of_the_window",
         PLANE + "test_reference.py::test_packet_id_zero_and_a_leap_of_half_the_range",
         "unit/crypto/test_replay.py::test_near_the_end_of_the_numbers",
         HERE + "test_packets.py::test_replays_of_every_packet"),
    ),
    Attack(
        30, "epochs: 0, one ahead, four, five, the last ones, older ones, forged ones",
        (PLANE + "formats/test_epoch.py::test_jumps",
         PLANE + "formats/test_epoch.py::test_only_one_past_epoch_is_taken",
         PLANE + "formats/test_epoch.py::test_the_counter_restarts_and_zero_is_invalid",
         PLANE + "formats/test_epoch.py::test_late_epochs_ask_for_a_new_key_and_the_last_ones_are_not_received",
         PLANE + "formats/test_epoch.py::test_forged_epochs_move_nothing"),
    ),
    Attack(
        31, "failed tags until the key is worn out",
        (PLANE + "test_reference.py::test_failed_tags",
         PLANE + "formats/test_epoch.py::test_forgeries_move_our_own_epoch_and_wear_the_key_out_at_last"),
    ),
    Attack(
        32, "empty and tiny plaintexts, every length of datagram",
        (PLANE + "test_reference.py::test_empty_plaintexts_are_neither_sent_nor_taken",
         PLANE + "test_reference.py::test_truncated_at_every_byte",
         PLANE + "test_reference.py::test_random_bytes_of_every_length"),
    ),
    Attack(
        36, "a captured packet from another address does not move the peer",
        (PLANE + "test_float.py::test_nothing_else_moves_it",
         PLANE + "test_reference.py::test_another_address_is_not_the_peer"),
    ),
    Attack(
        37, "fragments: overlap, numbers, sizes, last twice, too many at once",
        (PLANE + "payload/test_fragment.py::test_malformed_fragments",
         PLANE + "payload/test_fragment.py::test_a_last_fragment_twice_and_with_another_number",
         PLANE + "payload/test_fragment.py::test_buffers_are_bounded_and_the_oldest_goes",
         PLANE + "payload/test_fragment.py::test_random_fragments_never_do_worse_than_nothing"),
    ),
    Attack(
        38, "headers and options where the MSS is clamped",
        (PLANE + "test_mss.py::test_hostile_options_come_out_as_they_went_in",
         PLANE + "test_mss.py::test_truncated_and_bent_headers_never_raise"),
    ),
    Attack(
        39, "compressed bombs, unknown framing, compressed where nobody allowed it",
        (PLANE + "payload/test_compression.py::test_bombs_and_broken_data",
         PLANE + "payload/test_compression.py::test_malformed_frames",
         PLANE + "payload/test_compression.py::test_stubs_take_nothing_compressed",
         PLANE + "payload/test_compression.py::test_compressed_packets_are_dropped_counted_and_told_once"),
    ),
    Attack(
        40, "pings and OCC messages in floods, an exit that is not authentic",
        (PLANE + "test_reference.py::test_occ_messages_are_handed_up_and_exit_is_told_once",
         "unit/protocol/test_inquiry.py::test_answers_are_rationed",
         PLANE + "test_reference.py::test_exit_has_to_be_authentic",
         PLANE + "test_reference.py::test_a_ping_is_a_sign_of_life"),
    ),
    Attack(
        41, "pushes that run programs or change files, keys, remotes",
        ("pair/test_client.py::test_hostile_pushes_have_no_effect_and_are_shown",
         "unit/config/test_hostile.py::test_any_push_is_taken_or_ends_the_session"),
    ),
    Attack(
        42, "pushed ciphers nobody offered, flags nobody knows, epochs without a peer id",
        ("pair/test_client.py::test_pushes_that_the_session_cannot_live_with",
         "pair/test_datachannel.py::test_what_a_server_may_not_push",
         HERE + "test_exchange.py::test_an_odd_options_string_is_shown_harmlessly_and_chooses_nothing"),
    ),
    Attack(
        43, "pushed DNS: shell, quotes, newlines, thousands of servers",
        ("pair/test_client.py::test_hostile_pushes_have_no_effect_and_are_shown",
         "unit/config/test_pushed.py::test_dropped_and_recorded",
         "unit/config/test_pushed.py::test_dns_is_bounded"),
    ),
    Attack(
        44, "pushed routes: too many, to the server itself, masks with holes",
        ("unit/config/test_pushed.py::test_routes_are_unique_and_bounded",
         "unit/config/test_pushed.py::test_the_server_s_own_address_is_not_routed_into_the_tunnel",
         "unit/config/test_pushed.py::test_dropped_and_recorded"),
    ),
    Attack(
        45, "pushed addresses and MTUs that nobody can use",
        ("pair/test_client.py::test_pushes_that_the_session_cannot_live_with",
         "unit/config/test_pushed.py::test_the_session_ends",
         "pair/test_datachannel.py::test_a_pushed_mtu_has_its_limit"),
    ),
    Attack(
        46, "pushes and updates without end, a hundred of them, malformed ones",
        (HERE + "test_messages.py::test_a_hundred_replies",
         HERE + "test_messages.py::test_continuations_of_maximal_size_are_bounded",
         HERE + "test_messages.py::test_updates_that_are_none",
         HERE + "test_messages.py::test_an_update_of_thousands_of_options_makes_few_lines",
         HERE + "test_messages.py::test_a_push_of_thousands_of_options_without_effect",
         "pair/test_push_update.py::test_updates_without_end_end_the_session"),
    ),
    Attack(
        47, "back-off of 2^31 s, pending for ever, restarts in a loop, credentials carried elsewhere",
        (HERE + "test_messages.py::test_told_to_come_back",
         HERE + "test_messages.py::test_pending_every_second_for_ever_ends",
         HERE + "test_messages.py::test_in_a_loop_the_pauses_grow",
         HERE + "test_messages.py::test_another_remote_learns_nothing_that_it_need_not"),
    ),
    Attack(
        48, "addresses to open, questions and challenges that deceive",
        ("pair/test_login.py::test_an_address_that_is_not",
         HERE + "test_messages.py::test_challenges_that_are_none_are_refusals",
         HERE + "test_messages.py::test_questions_are_shown_printable_and_short",
         HERE + "test_messages.py::test_tokens_of_any_kind"),
    ),
    Attack(
        49, "certificates that are wrong in every way",
        ("interop/certificates/test_certificates.py::test_our_client",
         "unit/protocol/test_policies.py::test_names",
         "unit/crypto/test_x509.py::test_mutations_are_read_or_refused_and_nothing_else",
         HERE + "test_tls.py::test_a_chain_without_end"),
    ),
    Attack(
        50, "old TLS, no encryption, no certificate, weak hashes and groups, early data, resumption",
        (HERE + "test_tls.py::test_what_the_client_offers",
         HERE + "test_tls.py::test_a_hello_that_chooses_what_was_not_offered",
         HERE + "test_tls.py::test_an_old_server",
         HERE + "test_tls.py::test_a_server_without_encryption_or_certificate",
         HERE + "test_tls.py::test_a_small_diffie_hellman_group"),
    ),
    Attack(
        51, "proxies that loop, dribble, answer too much, or send their relay elsewhere",
        ("unit/runtime/test_proxies.py::test_a_head_that_never_ends_costs_no_more_than_its_bound",
         "unit/runtime/test_proxies.py::test_hostile_challenges_are_cheap",
         "unit/runtime/test_proxies.py::test_the_relay_is_the_proxy_or_nobody",
         "unit/runtime/test_reach.py::test_a_proxy_that_dribbles_has_no_more_time_than_others"),
    ),
    Attack(
        52, "names that lead to nobody, to everybody, to thousands, elsewhere each time",
        (HERE + "test_names.py::test_what_is_no_machines_address_is_left_out",
         HERE + "test_names.py::test_a_thousand_addresses_and_none",
         HERE + "test_names.py::test_addresses_that_alternate_never_make_it_faster",
         "unit/runtime/test_resolver.py::test_the_number_of_answers_is_bounded"),
    ),
)  # fmt: skip
