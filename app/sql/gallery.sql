-- # What does the model know?
-- Relations by the share of their facts that the model answers right on most prompts.
SELECT label, count(*) AS facts, avg(known::INTEGER) AS known_share,
       avg(mean_probability) AS mean_probability, avg(n_neurons) AS mean_neurons
FROM facts JOIN relations USING (relation_id)
GROUP BY label
ORDER BY known_share DESC, mean_probability DESC

-- # Do the neurons matter?
-- The claim beside its controls: suppressing a fact's own neurons, other neurons, and its own neurons on
-- unrelated facts; known facts, held-out prompts (all prompts where none is held out).
SELECT intervention, "group", count(*) AS prompts,
       avg((p_after - p_before) / p_before) AS mean_change,
       median((p_after - p_before) / p_before) AS median_change,
       avg((rank_after = 1)::INTEGER) AS still_first
FROM effects JOIN facts USING (fact_id)
WHERE known AND rank_before = 1 AND p_before > 0
  AND effects.held_out = (SELECT bool_or(held_out) FROM effects)
GROUP BY ALL
ORDER BY intervention DESC, mean_change

-- # Which neurons have most relations?
-- Hub neurons: knowledge neurons of facts in many relations, and the tokens they promote.
SELECT layer, neuron, h.n_relations, h.n_facts, h.fact_share,
       list_transform(promoted[1:5], lambda p: trim(p.token)) AS promotes
FROM hub_neurons AS h JOIN neurons USING (layer, neuron)
ORDER BY h.n_relations DESC, h.n_facts DESC
LIMIT 25

-- # Which neurons belong to one relation?
-- The opposite of hubs: neurons of at least $least facts, all of one relation.
-- $least = 5
SELECT k.layer, k.neuron, any_value(r.label) AS relation, count(*) AS facts,
       count(*) / any_value(r.n_facts) AS relation_share,
       count(DISTINCT f.object) AS different_answers,
       avg(k.mean_score) AS mean_score
FROM knowledge_neurons AS k
JOIN facts AS f USING (fact_id)
JOIN relations AS r ON r.relation_id = f.relation_id
GROUP BY k.layer, k.neuron
HAVING count(DISTINCT f.relation_id) = 1 AND count(*) >= $least::INTEGER
ORDER BY relation_share DESC, facts DESC
LIMIT 50

-- # Which layers hold them?
-- Knowledge neurons by layer, and how many facts share one on average.
SELECT layer, n_pairs, n_neurons, n_facts, pair_share,
       n_pairs / n_neurons AS facts_per_neuron
FROM layer_histogram
ORDER BY layer

-- # Do neurons promote the answer?
-- By layer: how often a fact's answer begins with a token that its knowledge neuron promotes.
WITH readable AS (
    SELECT layer, neuron,
           list_transform(promoted, lambda p: lower(trim(p.token))) AS tokens
    FROM neurons
    WHERE promoted IS NOT NULL
)
SELECT layer, count(*) AS pairs,
       avg(list_bool_or(list_transform(
           tokens, lambda t: length(t) > 1 AND starts_with(lower(f.object), t)
       ))::INTEGER) AS promotes_the_answer
FROM knowledge_neurons AS k
JOIN readable USING (layer, neuron)
JOIN facts AS f ON f.fact_id = k.fact_id
GROUP BY layer
ORDER BY layer

-- # One fact, prompt by prompt
-- Every prompt of the facts about $subject: the answer's probability and rank, and the model's first answer.
-- Wording changes what the model knows.
-- $subject = France
SELECT fact_id, label, text, held_out, probability, rank, top_token, top_probability
FROM fact_prompts
JOIN facts USING (fact_id)
JOIN relations USING (relation_id)
WHERE subject = $subject
ORDER BY label, probability DESC

-- # Facts that share neurons with one fact
-- Other facts by their neurons in common with one fact (Jaccard: neurons of both divided by neurons of
-- either).
-- $subject = France
-- $relation = capital
WITH own AS (
    SELECT layer, neuron FROM neuron_facts
    WHERE subject = $subject AND label = $relation
)
SELECT o.fact_id, o.subject, o.object, o.label, count(*) AS shared,
       count(*) / (any_value(f.n_neurons) + (SELECT count(*) FROM own) - count(*)) AS jaccard
FROM own
JOIN neuron_facts AS o USING (layer, neuron)
JOIN facts AS f ON f.fact_id = o.fact_id
WHERE NOT (o.subject = $subject AND o.label = $relation)
GROUP BY o.fact_id, o.subject, o.object, o.label
ORDER BY jaccard DESC
LIMIT 50

-- # The answer or the relation?
-- Pairs of facts of one relation: do two with the same answer share more neurons than two with different
-- answers?
WITH counted AS (
    SELECT f.relation_id, f.object, count(*) AS n
    FROM facts AS f GROUP BY ALL
), same AS (
    SELECT relation_id, sum(n * (n - 1) / 2) AS pairs FROM counted GROUP BY relation_id
), every AS (
    SELECT relation_id, count(*) * (count(*) - 1) / 2 AS pairs FROM facts GROUP BY relation_id
), used AS (
    SELECT f.relation_id, layer, neuron, f.object, count(*) AS n
    FROM knowledge_neurons AS k JOIN facts AS f USING (fact_id) GROUP BY ALL
), shared AS (
    SELECT relation_id, sum(n * (n - 1) / 2) AS same_answer FROM used GROUP BY relation_id
), shared_by_all AS (
    SELECT relation_id, sum(n * (n - 1) / 2) AS any_answer
    FROM (SELECT relation_id, sum(n) AS n FROM used GROUP BY relation_id, layer, neuron)
    GROUP BY relation_id
)
SELECT label, same.pairs AS pairs_with_the_same_answer,
       same_answer / same.pairs AS shared_same_answer,
       (any_answer - same_answer) / (every.pairs - same.pairs) AS shared_other_answer
FROM same
JOIN every USING (relation_id)
JOIN shared USING (relation_id)
JOIN shared_by_all USING (relation_id)
JOIN relations USING (relation_id)
WHERE same.pairs > 0 AND every.pairs > same.pairs
ORDER BY shared_same_answer DESC

-- # Which relations overlap?
-- Pairs of relations whose facts have most neurons in common, beside what two facts within each share.
SELECT a.label AS relation, b.label AS other, o.mean_shared,
       within_a.mean_shared AS within_relation, within_b.mean_shared AS within_other
FROM relation_overlap AS o
JOIN relations AS a ON a.relation_id = o.relation_a
JOIN relations AS b ON b.relation_id = o.relation_b
JOIN relation_overlap AS within_a
  ON within_a.relation_a = o.relation_a AND within_a.relation_b = o.relation_a
JOIN relation_overlap AS within_b
  ON within_b.relation_a = o.relation_b AND within_b.relation_b = o.relation_b
WHERE o.relation_a < o.relation_b
ORDER BY o.mean_shared DESC
LIMIT 30

-- # Collateral damage
-- Unrelated prompts whose answers fall most when another fact's neurons are suppressed: what the control on
-- unrelated facts shows.
SELECT f.fact_id, f.subject AS neurons_of, f.object AS neurons_answer,
       other.subject AS asked_about, other.object AS asked_answer,
       p_before, p_after, rank_after, e.n_neurons
FROM effects AS e
JOIN facts AS f ON f.fact_id = e.fact_id
JOIN facts AS other ON other.fact_id = e.prompt_fact_id
WHERE e."group" = 'unrelated' AND e.intervention = 'suppress' AND rank_before = 1
ORDER BY p_after - p_before
LIMIT 50

-- # Facts that survive
-- Known facts whose answers hardly fall when their neurons are suppressed: stored elsewhere too, or these are
-- not their neurons.
SELECT fact_id, subject, object, label, facts.n_neurons,
       avg(p_before) AS before, avg(p_after) AS after, avg(p_after) / avg(p_before) AS kept
FROM effects
JOIN facts USING (fact_id)
JOIN relations USING (relation_id)
WHERE "group" = 'own' AND intervention = 'suppress' AND known AND facts.n_neurons > 0
  AND effects.held_out = (SELECT bool_or(held_out) FROM effects)
GROUP BY ALL
ORDER BY kept DESC
LIMIT 50

-- # Other thresholds
-- Refinement in SQL: a neuron is coarse from $threshold × the prompt's largest score on, and kept if coarse
-- in $share of the fact's discovery prompts. How many does a fact then have?
-- $threshold = 0.4
-- $share = 0.7
WITH coarse AS (
    SELECT a.fact_id, layer, neuron, count(*) AS n
    FROM attributions AS a
    JOIN prompts AS p ON p.fact_id = a.fact_id AND p.template_id = a.template_id
    WHERE NOT p.held_out AND p.max_score > 0 AND score >= $threshold::DOUBLE * p.max_score
    GROUP BY ALL
), asked AS (
    SELECT fact_id, count(*) AS n FROM prompts WHERE max_score IS NOT NULL AND NOT held_out GROUP BY fact_id
), kept AS (
    SELECT fact_id, count(*) AS neurons
    FROM coarse JOIN asked USING (fact_id)
    WHERE coarse.n >= greatest(2, $share::DOUBLE * asked.n)
    GROUP BY fact_id
)
SELECT relation_id, label, count(*) AS facts,
       avg(coalesce(neurons, 0)) AS mean_neurons,
       median(coalesce(neurons, 0)) AS median_neurons,
       avg(facts.n_neurons) AS mean_in_this_atlas,
       sum((coalesce(neurons, 0) = 0)::INTEGER) AS without_any
FROM facts
LEFT JOIN kept USING (fact_id)
JOIN relations USING (relation_id)
GROUP BY relation_id, label
ORDER BY mean_neurons DESC

-- # What activates a neuron?
-- The prompts on which one neuron is most and least active, and whether it is a knowledge neuron of their
-- facts. Without values, the largest hub of the atlas.
WITH chosen AS (
    SELECT layer, neuron FROM hub_neurons
    WHERE layer = coalesce($layer::INTEGER, layer) AND neuron = coalesce($neuron::INTEGER, neuron)
    ORDER BY n_facts DESC
    LIMIT 1
)
SELECT layer, neuron, side, a.rank, activation, p.text, f.fact_id, f.object AS answer,
       k.fact_id IS NOT NULL AS is_its_knowledge_neuron
FROM chosen
JOIN activating_prompts AS a USING (layer, neuron)
JOIN prompts AS p ON p.fact_id = a.fact_id AND p.template_id = a.template_id
JOIN facts AS f ON f.fact_id = a.fact_id
LEFT JOIN knowledge_neurons AS k
  ON k.fact_id = a.fact_id AND k.layer = a.layer AND k.neuron = a.neuron
ORDER BY side DESC, a.rank

-- # Does activation mean knowledge?
-- By layer: of the prompts that activate knowledge neurons most, the share that ask for a fact of the neuron.
-- Being active is not the same as being used.
SELECT a.layer, count(*) AS top_prompts,
       avg((k.fact_id IS NOT NULL)::INTEGER) AS of_its_own_facts,
       avg(activation) AS mean_activation
FROM activating_prompts AS a
LEFT JOIN knowledge_neurons AS k
  ON k.fact_id = a.fact_id AND k.layer = a.layer AND k.neuron = a.neuron
WHERE side = 'top'
GROUP BY a.layer
ORDER BY a.layer

-- # Confidently wrong
-- Prompts that the model answers wrong, with the highest probability of its first answer.
SELECT fact_id, text, object AS answer, probability, rank,
       trim(top_token) AS says_instead, top_probability
FROM prompts JOIN facts USING (fact_id)
WHERE rank > 1 AND NOT starts_with(lower(object), lower(trim(top_token)))
ORDER BY top_probability DESC
LIMIT 100

-- # Wording matters
-- Relations whose best and worst template differ most in the answer's mean probability.
WITH template AS (
    SELECT relation_id, label, template_id, avg(probability) AS mean,
           replace(any_value(text), any_value(subject), '[X]') AS wording
    FROM prompts JOIN facts USING (fact_id) JOIN relations USING (relation_id)
    GROUP BY ALL
)
SELECT label, max(mean) - min(mean) AS apart,
       max(mean) AS best, arg_max(wording, mean) AS best_wording,
       min(mean) AS worst, arg_min(wording, mean) AS worst_wording
FROM template
GROUP BY label
ORDER BY apart DESC

-- # How exact are the scores?
-- The numerical error of every attributed prompt, by relation: points evaluated, the largest completeness
-- gap, and paths outside the tolerance.
SELECT label, count(*) AS prompts,
       median(n_points / (n_layers * prompts.n_answer_tokens)) AS points_per_path,
       quantile_cont(max_gap, 0.5) AS median_gap, max(max_gap) AS largest_gap,
       sum(n_unconverged) AS paths_outside, sum(n_layers * prompts.n_answer_tokens) AS paths
FROM prompts JOIN facts USING (fact_id) JOIN relations USING (relation_id)
WHERE max_gap IS NOT NULL
GROUP BY label
ORDER BY largest_gap DESC

-- # Where does the answer appear?
-- By layer, what the model would answer if it ended there, on prompts of known facts: how often the answer's
-- first token comes first. In early layers the lens is unreliable.
SELECT layer, count(*) AS prompts, avg((rank = 1)::INTEGER) AS answer_first,
       median(rank) AS median_rank, avg(probability) AS mean_probability
FROM lens JOIN facts USING (fact_id)
WHERE known
GROUP BY layer
ORDER BY layer

-- # Which neurons are the controls?
-- The neurons that each control changed: the share that are knowledge neurons of any fact, and of the fact
-- itself.
SELECT c."group" AS control, count(*) AS neurons,
       avg((n.n_facts IS NOT NULL)::INTEGER) AS of_any_fact,
       avg((k.fact_id IS NOT NULL)::INTEGER) AS of_the_fact
FROM control_neurons AS c
LEFT JOIN neurons AS n USING (layer, neuron)
LEFT JOIN knowledge_neurons AS k USING (fact_id, layer, neuron)
GROUP BY control
ORDER BY of_any_fact
