-- # Which control does most?
-- Each control's effect as a share of that of the fact's own neurons: 1 would be as much. Known facts, means
-- over relations, the paper's ratio with its 95 % interval.
SELECT c.intervention, c.templates, c."group" AS control, own.paper_change AS own_change,
       c.paper_change AS control_change, c.paper_low AS control_low, c.paper_high AS control_high,
       c.paper_change / own.paper_change AS share_of_own
FROM effect_summaries AS c
JOIN effect_summaries AS own USING (relation_id, intervention, templates, facts)
WHERE relation_id = 'all' AND facts = 'known' AND own."group" = 'own' AND c."group" <> 'own'
ORDER BY c.intervention DESC, c.templates DESC, share_of_own DESC

-- # Where does the claim fail?
-- By relation: suppressing a fact's own neurons, beside the control that lowers its answer most. Where the
-- two intervals overlap, a control may do as much.
WITH held_out AS (
    SELECT * FROM effect_summaries
    WHERE relation_id <> 'all' AND intervention = 'suppress' AND templates = 'held-out' AND facts = 'all'
), strongest AS (
    SELECT * FROM held_out WHERE "group" <> 'own'
    QUALIFY row_number() OVER (PARTITION BY relation_id ORDER BY paper_change) = 1
)
SELECT label, own.n_facts AS facts, own.paper_change AS own_change, own.paper_high AS own_weakest,
       c."group" AS strongest_control, c.paper_change AS control_change, c.paper_low AS control_strongest,
       own.paper_high < c.paper_low AS apart
FROM held_out AS own
JOIN strongest AS c USING (relation_id)
JOIN relations USING (relation_id)
WHERE own."group" = 'own'
ORDER BY apart, own_change - control_change DESC

-- # Discovery or held-out?
-- The same neurons on discovery and on held-out prompts: an effect on discovery prompts only would belong to
-- their wording.
SELECT d.intervention, d."group", d.facts, d.n_facts,
       d.paper_change AS discovery, h.paper_change AS held_out,
       d.replication_change AS discovery_replication, h.replication_change AS held_out_replication,
       d.top_changed AS discovery_top_changed, h.top_changed AS held_out_top_changed
FROM effect_summaries AS d
JOIN effect_summaries AS h USING (relation_id, intervention, "group", facts)
WHERE relation_id = 'all' AND d.templates = 'discovery' AND h.templates = 'held-out'
ORDER BY d.facts DESC, d.intervention DESC, abs(held_out) DESC

-- # How well do edits work?
-- Of edits that give a fact a new answer: how often the model then puts it first, on the prompt and on
-- paraphrases, and how often prompts of other facts change. Beside them random neurons.
SELECT remove, add, "group", count(DISTINCT fact_id) AS edits,
       avg((rank_new_after = 1)::INTEGER) FILTER (kind = 'edited') AS efficacy,
       avg((rank_new_after = 1)::INTEGER) FILTER (kind = 'paraphrase') AS paraphrase,
       avg((rank_new_after = 1)::INTEGER) FILTER (kind = 'symmetry') AS symmetry,
       avg(top_changed::INTEGER) FILTER (kind = 'same_relation') AS changed_same_relation,
       avg(top_changed::INTEGER) FILTER (kind = 'other_relation') AS changed_other_relation
FROM edits
GROUP BY ALL
ORDER BY efficacy DESC

-- # Edits that change other facts
-- Successful edits with a fact's own neurons that also give other facts of the relation the new answer, or
-- change the model's first answer about others.
WITH edit AS (
    SELECT fact_id, new_object, add, any_value(n_neurons) AS neurons,
           bool_or(rank_new_after = 1) FILTER (kind = 'edited') AS took,
           sum((rank_new_after = 1)::INTEGER) FILTER (kind = 'same_relation') AS say_the_new_answer,
           sum(top_changed::INTEGER) FILTER (kind = 'same_relation') AS same_relation_changed,
           sum(top_changed::INTEGER) FILTER (kind = 'other_relation') AS other_relation_changed,
           count(*) FILTER (kind IN ('same_relation', 'other_relation')) AS neighbours
    FROM edits WHERE "group" = 'own' GROUP BY ALL
)
SELECT fact_id, subject, object, new_object, add, neurons, say_the_new_answer, same_relation_changed,
       other_relation_changed, neighbours
FROM edit JOIN facts USING (fact_id)
WHERE took AND same_relation_changed + other_relation_changed > 0
ORDER BY (same_relation_changed + other_relation_changed) / neighbours DESC, fact_id
LIMIT 50

-- # How much must be erased?
-- Accuracy and perplexity of a relation's prompts after erasing its most frequent neurons, by their number,
-- beside as many random neurons; means over relations.
SELECT n_neurons, "group", count(*) AS relations,
       avg(accuracy_before) AS accuracy_before, avg(accuracy_after) AS accuracy_after,
       exp(avg(ln(perplexity_after / perplexity_before))) AS perplexity_factor,
       avg(mean_after / mean_before - 1) AS change
FROM erasures
WHERE relation_id = asked_relation_id AND mean_before > 0
GROUP BY ALL
ORDER BY n_neurons, "group"

-- # What does erasing spare?
-- Erasing a relation's most frequent neurons: its own prompts beside those of all other relations. Large
-- numbers in both columns mean neurons that every relation uses.
WITH dose AS (
    SELECT relation_id, max(n_neurons) AS n_neurons FROM erasures
    WHERE asked_relation_id <> relation_id GROUP BY relation_id
)
SELECT label, any_value(n_neurons) AS erased,
       any_value(accuracy_after - accuracy_before) FILTER (asked_relation_id = relation_id) AS own_accuracy,
       avg(accuracy_after - accuracy_before) FILTER (asked_relation_id <> relation_id) AS other_accuracy,
       any_value(perplexity_after / perplexity_before - 1) FILTER (asked_relation_id = relation_id)
           AS own_perplexity,
       avg(perplexity_after / perplexity_before - 1) FILTER (asked_relation_id <> relation_id)
           AS other_perplexity,
       max_by(asked_relation_id, perplexity_after / perplexity_before) AS suffers_most
FROM erasures JOIN dose USING (relation_id, n_neurons) JOIN relations USING (relation_id)
WHERE "group" = 'own'
GROUP BY label
ORDER BY own_accuracy - other_accuracy

-- # How few neurons have half the effect?
-- The smallest number of a fact's neurons with half the effect of all, by largest score and in a random
-- order. Facts that fall by less than 10 % are left out.
WITH falls AS (
    SELECT fact_id, "order", k, n_neurons, 1 - p_after / p_before AS fall,
           last_value(1 - p_after / p_before) OVER (
               PARTITION BY fact_id, "order" ORDER BY k
               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
           ) AS fall_all
    FROM subsets WHERE p_before > 0
), half AS (
    SELECT fact_id, "order", any_value(n_neurons) AS neurons, min(k) AS k
    FROM falls WHERE fall_all >= 0.1 AND fall >= fall_all / 2
    GROUP BY ALL
)
SELECT label, "order", count(*) AS facts, median(neurons) AS neurons, median(k) AS give_half,
       avg(k / neurons) AS share, avg((k = 1)::INTEGER) AS one_suffices
FROM half JOIN facts USING (fact_id) JOIN relations USING (relation_id)
GROUP BY ALL
ORDER BY label, "order" DESC

-- # The same neurons from other templates?
-- A fact's neurons found on its discovery templates and on its held-out ones: overlap (Jaccard) beside that
-- with another fact of the relation and with any fact, and the effect of suppressing either.
SELECT label, count(*) AS facts, avg(jaccard) AS overlap, avg(jaccard_relation) AS with_same_relation,
       avg(jaccard_random) AS with_any_fact,
       avg(p_discovery) / avg(p_before) - 1 AS change_by_found,
       avg(p_held_out) / avg(p_before) - 1 AS change_by_other_half
FROM stability JOIN facts USING (fact_id) JOIN relations USING (relation_id)
GROUP BY label
ORDER BY overlap - with_same_relation DESC

-- # A finding or a threshold?
-- What the stored scores give at other thresholds (t, p) and modes: numbers of neurons, and whether facts of
-- one relation still share more than facts of two.
SELECT mode, threshold AS t, share AS p, mean_neurons, median_neurons, n_empty / n_facts AS without_any,
       within, across, within / nullif(across, 0) AS times, same_object, other_object, identical, hubs,
       list_position(layer_shares, list_max(layer_shares)) - 1 AS fullest_layer
FROM statistics
ORDER BY mode = 'grid', mode, t, p

-- # What activates them?
-- Activation of a fact's neurons on its own prompts, on mentions of its subject, on its relation and
-- elsewhere; 1 is as active as on its discovery prompts. Beside them random neurons.
SELECT context, "group", count(*) AS facts, median(relative) AS relative,
       avg(activation) AS activation, avg(magnitude) AS magnitude
FROM contexts
GROUP BY ALL
ORDER BY "group", relative DESC

-- # Do other methods find the same neurons?
-- Other ways to score neurons, with as many neurons chosen as by integrated gradients: how many are the same,
-- and the effect of suppressing and amplifying them on held-out prompts.
SELECT mode, method, count(*) AS facts, avg(n_neurons) AS neurons,
       avg(shared / n_neurons) FILTER (n_neurons > 0) AS the_same,
       avg(p_suppressed) / avg(p_before) - 1 AS suppressed,
       avg(p_amplified) / avg(p_before) - 1 AS amplified
FROM methods
GROUP BY ALL
ORDER BY mode, suppressed

-- # What does it say without them?
-- What a causal model goes on to say, as it is, without a fact's neurons, and without random ones; facts that
-- it no longer answers come first.
SELECT fact_id, p.text AS prompt, object AS answer,
       any_value(g.text) FILTER ("group" = 'unchanged') AS unchanged,
       any_value(g.text) FILTER ("group" = 'own') AS without_its_neurons,
       any_value(g.text) FILTER ("group" = 'random') AS without_random
FROM generations AS g
JOIN facts USING (fact_id)
JOIN prompts AS p USING (fact_id, template_id)
WHERE prompt_fact_id = fact_id
GROUP BY fact_id, prompt, answer
ORDER BY starts_with(lower(trim(without_its_neurons)), lower(answer)), fact_id

-- # Is grammar found like facts?
-- Minimal pairs of English grammar that the model knows: what becomes of the right word, and how often the
-- wrong one becomes likelier, when the neurons found for it are changed, or random ones; held-out wordings.
SELECT phenomenon, intervention, add, "group", count(DISTINCT pair_id) AS pairs, avg(n_neurons) AS neurons,
       sum(p_good_after) / sum(p_good_before) - 1 AS change,
       avg((p_bad_after > p_good_after)::INTEGER) AS wrong_is_likelier
FROM grammar
WHERE intervention <> 'none'
GROUP BY ALL
ORDER BY phenomenon, intervention DESC, add, "group"

-- # Does an edit hold for synonyms?
-- How often the new answer comes first where the prompt names the edited fact's subject, or a synonym under
-- which the model was right before.
SELECT "group", add, synonym, count(DISTINCT fact_id) AS facts, count(*) AS prompts,
       avg((rank_new_after = 1)::INTEGER) AS new_answer_first
FROM synonymy
WHERE rank_old_before = 1
GROUP BY ALL
ORDER BY "group", add DESC, synonym

-- # Whose neurons are they?
-- What of a fact's loss without its neurons is its own, and what comes with its answer, its relation, or with
-- being a fact at all; as shares of the fall, relation by relation.
SELECT coalesce(label, 'all relations') AS relation,
       any_value(value) FILTER (part = 'fall') AS fall,
       any_value(share) FILTER (part = 'own') AS own,
       any_value(share) FILTER (part = 'answer') AS with_the_answer,
       any_value(share) FILTER (part = 'relation') AS with_the_relation,
       any_value(share) FILTER (part = 'general') AS any_fact,
       any_value(s.n_facts) AS facts, any_value(n_prompts) AS fewest_prompts
FROM specificity AS s
LEFT JOIN relations USING (relation_id)
GROUP BY relation_id, label
ORDER BY relation_id <> 'all', own DESC

-- # Which method finds planted neurons?
-- Answers were planted in random neurons; how many of them each method finds, and what becomes of the answer
-- without those that it finds; means with 95 % intervals, and the steps that planting took.
SELECT n_planted, method, recall, recall_low, recall_high, chance, auc, fall, n_plantings, steps
FROM planted_summaries
JOIN (SELECT n_planted, method, avg(n_steps) AS steps FROM planted GROUP BY ALL) USING (n_planted, method)
ORDER BY n_planted, recall DESC
